from .exports import ExportSettings, export_batch, export_slide
from .geojson import read_geojson

__all__ = ["ExportSettings", "export_batch", "export_slide", "read_geojson"]
