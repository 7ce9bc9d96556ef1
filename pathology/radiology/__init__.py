"""MRI, CT and PET of the same patients: reading, features, models and their predictions.

Geometry is always in patient coordinates, in mm.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
