from . import histology, radiology, survival
from .slide_classifier import SlideClassifier, find_classifier, slide_classifiers
from .system import PublishedMetric, System, all_systems

__all__ = [
    "PublishedMetric",
    "SlideClassifier",
    "System",
    "all_systems",
    "find_classifier",
    "histology",
    "radiology",
    "slide_classifiers",
    "survival",
]
