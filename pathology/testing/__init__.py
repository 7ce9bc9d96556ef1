"""Constructed slides, bundles, images and results whose truth is known, and suites for new backends.

For tests of this package and of what others build on it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
