"""Engines: ``predict((B, H, W, 3) uint8) -> (B, C) float32`` with PyTorch or OpenVINO.

Normalisation is inside; batching cannot change a result.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
