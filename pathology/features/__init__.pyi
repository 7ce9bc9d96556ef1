from .folder import find_features, open_features
from .slide_features import SlideFeatures

__all__ = ["SlideFeatures", "find_features", "open_features"]
