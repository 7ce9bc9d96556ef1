"""Survival models and what they are judged by.

Times are in the unit of the table; risks grow with the hazard.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
