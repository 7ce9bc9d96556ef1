"""Outputs of scoring: results folders, figures, reports and exports.

These packages only write and read results that are computed elsewhere.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
