"""Feature vectors of slides' patches on disk: our stores, and the files of TRIDENT, CLAM, STAMP and AtlasPatch.

Reading needs neither the slides nor the encoder.
"""

from pathology.lazy_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
