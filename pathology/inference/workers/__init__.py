"""Workers on this machine, a Dask cluster or SLURM, and the scheduling of slides on them.

One bad slide never stops a batch.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
