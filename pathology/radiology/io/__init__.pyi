from .adc import adc_map
from .cohort import Case, Cohort, read_cohort
from .geometry import Geometry
from .nifti import write_nifti
from .open import OpenedVolume, open_mask, open_volume
from .volume import Mask, Volume

__all__ = [
    "Case",
    "Cohort",
    "Geometry",
    "Mask",
    "OpenedVolume",
    "Volume",
    "adc_map",
    "open_mask",
    "open_volume",
    "read_cohort",
    "write_nifti",
]
