"""Slides of any format: opening them, pictures at any scale, their scale and tissue.

Everything is in level-0 pixels, ``(x, y)`` from the top left.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
