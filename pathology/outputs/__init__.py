"""Outputs of scoring: results folders, figures, reports and exports.

These packages only write and read results that are computed elsewhere.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
