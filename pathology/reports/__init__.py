"""HTML pages that training, radiology and survival share: sections, tables and pictures in one file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
