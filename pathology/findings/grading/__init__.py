"""Grades and stages from confirmed inputs, by published criteria; one system per file.

A missing input raises an error that names it; nothing is graded from a model's prediction alone.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
