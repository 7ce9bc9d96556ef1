"""Everything that scoring leaves behind: results folders, figures, reports and exports.

These rooms write and read what was decided elsewhere.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
