"""Grades and stages from confirmed inputs, by published tables; one system per file.

A missing input is an error that says which; nothing is graded from a model's answer alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
