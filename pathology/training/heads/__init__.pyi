from .settings import HEADS, HeadSettings
from .train import train_heads

__all__ = ["HEADS", "HeadSettings", "train_heads"]
