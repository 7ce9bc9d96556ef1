"""Reading ahead of the engine: blocks of patches from threads or processes of their own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
