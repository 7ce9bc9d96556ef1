"""Published systems rebuilt from the parts: settings, published figures and our own.

No algorithm lives here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
