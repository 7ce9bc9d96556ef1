"""What every training shares: checkpoints, processes, layer groups, learning rates, attribution."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
