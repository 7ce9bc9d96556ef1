from . import readers, stain, tissue
from .open import find_slides
from .scale import Scale
from .slide import Slide, open_slide

__all__ = ["Scale", "Slide", "find_slides", "open_slide", "readers", "stain", "tissue"]
