"""How a model is run over patches: engines compute, reading feeds them, workers spread the work."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
