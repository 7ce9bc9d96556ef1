"""Survival models and what they are judged by.

Times are in the unit of the table; risks grow with the hazard.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
