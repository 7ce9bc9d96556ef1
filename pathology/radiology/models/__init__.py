"""Models of images: signatures, classifiers, segmentation, survival, habitats.

Each kind is a recipe that trains, predicts and writes its own card.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
