"""Network architectures, by their names on model cards.

Built with random weights; bundles provide trained ones.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
