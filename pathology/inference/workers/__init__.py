"""Workers on this machine, a Dask cluster or SLURM, and the scheduling of slides on them.

One bad slide never stops a batch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
