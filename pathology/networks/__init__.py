"""Network architectures, by the names that model cards use.

Random weights; a bundle brings its own.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
