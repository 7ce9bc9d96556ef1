"""DNA methylation and histone marks of promoters.

Features of promoters from methylation calls, and a network that predicts marks from them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
