"""Slide-level findings: aggregated predictions, detections, mitotic counts, hotspots, grades.

Nothing here reads a slide or a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
