"""Readers of stored levels, one module per family of formats, and their common interface.

:func:`pathology.slide.open.open_reader` chooses between them.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
