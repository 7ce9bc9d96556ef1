from .data import MitosisData
from .fit import DetectorFitSettings

__all__ = ["DetectorFitSettings", "MitosisData"]
