"""Model bundles: a card that says what a model is, and weights that are the card's.

Finding them by name, loading, checking, and carrying them in and out.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
