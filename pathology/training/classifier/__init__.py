"""Training of slide classifiers: patches of labelled slides in, a bundle with a card out."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
