"""Patient records: slides, imaging studies, clinical data and survival predictions of one patient, merged by ID.

Under pseudonyms, with a summary in plain words.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
