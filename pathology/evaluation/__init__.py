"""Evaluation of fitted models on other people's data: classifiers, detectors, readers and risks.

Every figure comes with its interval and its n.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
