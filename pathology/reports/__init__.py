"""HTML pages that training, radiology and survival share: sections, tables and pictures in one file."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
