"""Run a model over patches: engines compute, readers feed them, workers distribute the work."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
