"""Training of slide classifiers: patches of labelled slides in, a bundle with a card out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
