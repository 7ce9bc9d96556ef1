"""Published systems rebuilt from the parts: settings, published figures and our own.

No algorithm lives here.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
