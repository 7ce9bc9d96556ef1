from .normalise import StainNormaliser, StainProfile, fit_stain

__all__ = ["StainNormaliser", "StainProfile", "fit_stain"]
