"""Synthetic slides, bundles, images and results with known ground truth, and test suites for new backends.

For tests of this package and of packages built on it.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
