from . import grading
from .aggregation import SlideAggregate, aggregate
from .detections import Detections, Matches, match_by_distance, match_by_iou, suppress
from .hotspot import ExpectedMaximum, Hotspot, HotspotWindow, expected_maximum, find_hotspot
from .mitotic_count import FieldConvention, MitoticCount, count_mitoses
from .slide_result import SlideResult
from .vocabulary import Histotype, find_histotype, histotypes

__all__ = [
    "Detections",
    "ExpectedMaximum",
    "FieldConvention",
    "Histotype",
    "Hotspot",
    "HotspotWindow",
    "Matches",
    "MitoticCount",
    "SlideAggregate",
    "SlideResult",
    "aggregate",
    "count_mitoses",
    "expected_maximum",
    "find_histotype",
    "find_hotspot",
    "grading",
    "histotypes",
    "match_by_distance",
    "match_by_iou",
    "suppress",
]
