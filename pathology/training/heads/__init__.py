"""Slide-level heads on patch features: from a folder of features and a table of labels to a bundle."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
