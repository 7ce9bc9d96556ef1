"""File names in a results folder, and sizes that several of its readers rely on."""

from __future__ import annotations

from pathology.outputs.figures.overlay import LONGEST_SIDE

__all__ = ["ANNOTATIONS", "CARD", "HEATMAP", "OVERVIEW", "OVERVIEW_LONGEST_SIDE", "PREDICTIONS", "RECORD"]

PREDICTIONS = "predictions.zarr"
HEATMAP = "heatmap.ome.zarr"
ANNOTATIONS = "annotations.geojson"
OVERVIEW = "overview.jpg"
CARD = "card.json"
RECORD = "slide.json"
"""Names in a slide's folder; the record is written last, so a folder that has it is complete."""

OVERVIEW_LONGEST_SIDE = LONGEST_SIDE
"""Longer side of the overview image on which everything is drawn, in pixels."""
