from .detect import ExclusionReason, TissueMask, find_tissue
from .quality import SlideQuality

__all__ = ["ExclusionReason", "SlideQuality", "TissueMask", "find_tissue"]
