from .processes import ReadingProcesses
from .threads import ReadingThreads

__all__ = ["ReadingProcesses", "ReadingThreads"]
