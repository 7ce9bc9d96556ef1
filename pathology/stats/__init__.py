"""Statistics shared by all packages: intervals, bootstrap, calibration, splits, tests.

Independent of slides.  The unit is the patient, not the image, wherever patients are given.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
