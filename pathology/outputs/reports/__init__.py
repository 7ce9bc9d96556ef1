"""Reports: the batch report, slide reports, PDF and Excel."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
