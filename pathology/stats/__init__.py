"""What everyone measures with: intervals, bootstrap, calibration, splits, tests.

Nothing of slides is in it.  Patients, not images, are the unit wherever they are given.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
