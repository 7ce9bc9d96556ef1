"""The command line: thin, fast to start, and the same functions a script would call."""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
