from .checkpoint import Checkpoint
from .distributed import Distributed
from .grad_cam import grad_cam

__all__ = ["Checkpoint", "Distributed", "grad_cam"]
