"""Radiomic features of a region, and signatures: features chosen and weighed on training patients."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
