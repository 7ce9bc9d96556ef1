"""Work on images and masks: intensities, registration, resampling, shells around a tumour."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
