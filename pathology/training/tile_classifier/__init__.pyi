from .fit import FittedNetwork, TileFitSettings
from .labelled_tiles import LabelledTiles

__all__ = ["FittedNetwork", "LabelledTiles", "TileFitSettings"]
