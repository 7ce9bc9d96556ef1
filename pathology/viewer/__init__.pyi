from .batch import Batch
from .server import ViewerServer

__all__ = ["Batch", "ViewerServer"]
