"""Public cohorts of sarcoma slides: which there are, and the diagnoses that go with them.

``pathology cohort fetch`` downloads them.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
