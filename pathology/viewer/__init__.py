"""The browser viewer for results folders: a small server of tiles, heatmaps and detections."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
