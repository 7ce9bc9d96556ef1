"""Scoring of whole-slide images of soft tissue sarcomas.  Research use only.

The names most scripts need are here, and the rooms that hold the rest.  All are imported on first use, so that
``import pathology`` stays fast and pulls in no deep-learning library::

    import pathology as pth

    slide = pth.open_slide("slides/one.svs")
    batch = pth.score("slides", "osteosarcoma-viability", "results")
"""

import logging

from pathology.lazy_names import attach_stub
from pathology.nameless_user import name_nameless_user

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

name_nameless_user()

# A library leaves it to the program whether and where its messages are shown.
logging.getLogger(__name__).addHandler(logging.NullHandler())
