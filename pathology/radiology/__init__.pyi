from . import features, images, io, models
from .predict import predict_cohort

__all__ = ["features", "images", "io", "models", "predict_cohort"]
