"""The commands that check boxes around mitoses and grade tumours by their counts."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
