"""The results folder: what ``pathology score --out`` wrote, opened again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
