from . import engines, reading, workers

__all__ = ["engines", "reading", "workers"]
