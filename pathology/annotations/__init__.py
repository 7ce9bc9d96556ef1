"""Annotated mitoses as people have them: eight file formats, checked against the slides before any work."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
