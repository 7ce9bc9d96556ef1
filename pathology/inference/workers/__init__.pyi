from .cluster import Workers
from .slurm import SlurmSettings, read_slurm_settings

__all__ = ["SlurmSettings", "Workers", "read_slurm_settings"]
