"""Readers of stored levels, one file per family of formats, and the contract they keep.

:func:`pathology.slide.open.open_reader` chooses between them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
