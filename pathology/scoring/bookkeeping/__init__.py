"""What a batch keeps beside the slides' own folders: journal, tables, index page and record of the run."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
