"""Radiomic features of a region, and signatures: features chosen and weighed on training patients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
