from .augmentation import StainVariation, vary_stain
from .normalise import StainLook, StainNormaliser, fit_look

__all__ = ["StainLook", "StainNormaliser", "StainVariation", "fit_look", "vary_stain"]
