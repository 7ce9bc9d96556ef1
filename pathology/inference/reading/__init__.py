"""Read-ahead for the engine: threads or dedicated processes deliver blocks of patches."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
