from .batch_files import BatchFiles
from .merge import merge_parts

__all__ = ["BatchFiles", "merge_parts"]
