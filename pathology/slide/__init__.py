"""Slides of any format: opening, reading at any scale, scale and tissue.

Everything is in level-0 pixels, ``(x, y)`` from the top left.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
