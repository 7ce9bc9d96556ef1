"""Slide-level findings: aggregated predictions, detections, mitotic counts, hotspots, grades.

Nothing here reads a slide or a model.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
