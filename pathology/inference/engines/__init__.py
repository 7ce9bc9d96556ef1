"""Engines: ``predict((B, H, W, 3) uint8) -> (B, C) float32`` with PyTorch or OpenVINO.

Normalisation is inside; batching cannot change a result.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
