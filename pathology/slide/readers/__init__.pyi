from .base import Level, Rect, Region, SlideReader, TileCounts
from .outside import SlideSource, outside_readers

__all__ = ["Level", "Rect", "Region", "SlideReader", "SlideSource", "TileCounts", "outside_readers"]
