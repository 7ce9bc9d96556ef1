"""The browser viewer of a results folder: a small server that serves tiles, heatmaps and detections."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
