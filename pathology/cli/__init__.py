"""The command line: thin, fast to start, and the same functions a script would call."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
