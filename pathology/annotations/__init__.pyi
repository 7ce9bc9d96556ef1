from .check import AnnotatedSlide, BrokenBoxesError, check_boxes
from .marks import BoxFile, Mark
from .read import read_boxes

__all__ = ["AnnotatedSlide", "BoxFile", "BrokenBoxesError", "Mark", "check_boxes", "read_boxes"]
