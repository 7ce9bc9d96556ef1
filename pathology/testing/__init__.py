"""Constructed slides, bundles, images and results whose truth is known, and suites for new backends.

For tests of this package and of what others build on it.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
