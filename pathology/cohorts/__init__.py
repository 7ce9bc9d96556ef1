"""Public cohorts of sarcoma slides: which there are, and the diagnoses that go with them.

``pathology cohort fetch`` downloads them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
