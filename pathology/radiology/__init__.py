"""MRI, CT and PET of the same patients: reading, features, models and their predictions.

Geometry is always in patient coordinates, in mm.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
