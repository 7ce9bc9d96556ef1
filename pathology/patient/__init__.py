"""Patient records: slides, imaging studies, clinical data and survival predictions of one patient, merged by ID.

Under pseudonyms, with a summary in plain words.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
