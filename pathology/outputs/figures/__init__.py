"""Figures: heatmaps, overlays, outlines and class colours."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
