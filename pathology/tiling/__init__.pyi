from .grid import Grid, TissueShare
from .plan import TilePlan, plan_tiles
from .store import PatchStore
from .torch_dataset import ShuffledPatches

__all__ = ["Grid", "PatchStore", "ShuffledPatches", "TilePlan", "TissueShare", "plan_tiles"]
