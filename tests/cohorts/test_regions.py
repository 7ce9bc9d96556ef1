"""Segmentations of slides become outlines at the place where they were drawn."""

import numpy as np
import pydicom
import pytest

from pathology.errors import CorruptSlideError
from pathology.outputs.export.exports import export_slide
from pathology.outputs.export.geojson import read_geojson
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import write_constructed_results

pytest.importorskip("highdicom")

from pathology.cohorts.regions import read_slide_regions, write_slide_regions


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seg")
    slide = open_results(write_constructed_results(folder / "out"))["square"]
    return slide, export_slide(slide, "dicom-regions", folder), export_slide(slide, "dicom-probabilities", folder)


def test_areas_are_those_of_the_heatmap(exported, tmp_path):
    slide, binary, _ = exported
    regions = read_slide_regions(binary, mpp=slide.record.mpp)
    found = {region.label: region for region in regions}
    for finding in slide.record.classes:
        drawn = [f for f in read_geojson(slide.folder / "annotations.geojson") if f.classification == finding.name]
        if not drawn:
            assert finding.name not in found or not found[finding.name].polygons
            continue
        corners = np.concatenate([polygon[0] for feature in drawn for polygon in feature.polygons])
        ours = np.concatenate([polygon[0] for polygon in found[finding.name].polygons])
        np.testing.assert_allclose(ours.min(axis=0), corners.min(axis=0), atol=found[finding.name].cell / 2)
        np.testing.assert_allclose(ours.max(axis=0), corners.max(axis=0), atol=found[finding.name].cell / 2)
    path = tmp_path / "regions.geojson"
    assert write_slide_regions(path, regions) == len(list(read_geojson(path))) > 0


def test_a_fractional_segmentation_is_cut_at_its_threshold(exported):
    slide, _, fractional = exported
    low = read_slide_regions(fractional, mpp=slide.record.mpp, threshold=0.01)
    high = read_slide_regions(fractional, mpp=slide.record.mpp, threshold=0.9)

    def area(regions):
        return sum(np.ptp(ring[:, 0]) * np.ptp(ring[:, 1]) for r in regions for ring, *_ in r.polygons)

    assert area(low) > area(high)


def test_something_else_is_refused(tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(b"not DICOM")
    with pytest.raises((CorruptSlideError, pydicom.errors.InvalidDicomError)):
        read_slide_regions(path, mpp=0.5)
