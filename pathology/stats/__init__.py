"""What everyone measures with: intervals, bootstrap, calibration, splits, tests.

Nothing of slides is in it.  Patients, not images, are the unit wherever they are given.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
