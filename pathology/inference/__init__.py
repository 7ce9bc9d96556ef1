"""Run a model over patches: engines compute, readers feed them, workers distribute the work."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
