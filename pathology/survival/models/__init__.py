"""Kinds of survival models: Cox, DeepSurv, DeepHit and others, made by name."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
