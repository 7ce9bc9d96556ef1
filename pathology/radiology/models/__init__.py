"""Models of images: signatures, classifiers, segmentation, survival, habitats.

Each kind is a recipe that trains, predicts and writes its own card.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
