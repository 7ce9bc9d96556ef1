from .base import Engine
from .select import make_engine

__all__ = ["Engine", "make_engine"]
