from .base import Level, Rect, Region, SlideReader, TileCounts

__all__ = ["Level", "Rect", "Region", "SlideReader", "TileCounts"]
