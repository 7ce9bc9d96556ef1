"""Images, masks and cohorts of them from DICOM, NIfTI and ITK files.

What a file does not say, such as a missing slice or dose, is an error.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
