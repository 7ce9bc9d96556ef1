"""Scoring and tiling of folders of slides: the rooms below put to work one after the other."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
