from .fit import FittedClassifier
from .recipe import SlideRecipe, Stage
from .split import split_slides
from .train import Plan, TrainedClassifier

__all__ = ["FittedClassifier", "Plan", "SlideRecipe", "Stage", "TrainedClassifier", "split_slides"]
