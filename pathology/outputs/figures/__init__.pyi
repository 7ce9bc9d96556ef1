from .heatmap import Heatmap, build_heatmap
from .palette import class_colours
from .polygons import Polygon, outlines
from .thumbnail import SlidePicture

__all__ = ["Heatmap", "Polygon", "SlidePicture", "build_heatmap", "class_colours", "outlines"]
