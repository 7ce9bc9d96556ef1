"""DNA methylation and histone marks of promoters.

Promoter features from methylation calls, and a network that predicts histone marks from them.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
