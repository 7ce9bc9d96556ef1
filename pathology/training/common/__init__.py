"""What every training shares: checkpoints, processes, layer groups, learning rates, attribution."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
