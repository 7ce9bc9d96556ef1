"""The browser viewer for results folders: a small server of tiles, heatmaps and detections."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
