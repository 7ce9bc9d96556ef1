from .normalise import StainLook, StainNormaliser, fit_look

__all__ = ["StainLook", "StainNormaliser", "fit_look"]
