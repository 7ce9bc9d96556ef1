"""Network architectures, by the names that model cards use.

Random weights; a bundle brings its own.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
