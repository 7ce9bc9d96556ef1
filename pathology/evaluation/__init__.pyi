from .classifier import Evaluation, SlidePrediction, evaluate_slides
from .detector import Froc, Image, Rates, froc, rates
from .labels import LabelledSlide, LabelledSlides, read_labels
from .reader_study import read_reader_study

__all__ = [
    "Evaluation",
    "Froc",
    "Image",
    "LabelledSlide",
    "LabelledSlides",
    "Rates",
    "SlidePrediction",
    "evaluate_slides",
    "froc",
    "rates",
    "read_labels",
    "read_reader_study",
]
