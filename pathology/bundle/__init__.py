"""Model bundles: a card that says what a model is, and weights that are the card's.

Finding them by name, loading, checking, and carrying them in and out.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
