from .batch import BatchResult, score
from .tile import TiledSlide, tile

__all__ = ["BatchResult", "TiledSlide", "score", "tile"]
