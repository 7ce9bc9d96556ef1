from .activity import ActivityNetwork, predict_activity
from .methylation import promoter_features, scale_features

__all__ = ["ActivityNetwork", "predict_activity", "promoter_features", "scale_features"]
