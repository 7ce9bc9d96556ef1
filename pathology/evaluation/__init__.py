"""Evaluation of fitted models on other people's data: classifiers, detectors, readers and risks.

Every figure comes with its interval and its n.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
