"""Training on single labelled tiles, for data sets that have no slides."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
