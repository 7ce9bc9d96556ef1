from . import classifier, common, detector, tile_classifier

__all__ = ["classifier", "common", "detector", "tile_classifier"]
