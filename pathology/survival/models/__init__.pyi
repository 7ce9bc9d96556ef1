from .base import FittedModel, SurvivalModel, fit_model
from .cox import HazardRatio, hazard_ratios
from .registry import load_model, make_model, model_kinds

__all__ = [
    "FittedModel",
    "HazardRatio",
    "SurvivalModel",
    "fit_model",
    "hazard_ratios",
    "load_model",
    "make_model",
    "model_kinds",
]
