"""Patches: the grid they lie on, which hold tissue, and the store that keeps them."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
