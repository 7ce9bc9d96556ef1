from . import features, images, io, models

__all__ = ["features", "images", "io", "models"]
