"""Readers of stored levels, one file per family of formats, and the contract they keep.

:func:`pathology.slide.open.open_reader` chooses between them.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
