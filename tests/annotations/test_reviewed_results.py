"""Reviews of a results folder as annotations: what was decided counts, and nothing else."""

import numpy as np
from PIL import Image

from pathology.annotations import check_boxes, read_boxes
from pathology.findings.slide_detections import Decision
from pathology.outputs.results.detection_file import write_decisions
from pathology.outputs.results.results_folder import open_results
from pathology.scoring.select import select_slides
from pathology.testing.constructed_results import write_constructed_results


def test_only_reviewed_detections_count(tmp_path):
    out = write_constructed_results(tmp_path / "out", dimensions=(2000, 1600), detections=30)
    Image.fromarray(np.full((1600, 2000, 3), 200, np.uint8)).save(tmp_path / "square.png")
    (slide,) = open_results(out)
    detections = slide.detections
    accepted, rejected = 3, 7
    decisions = [
        Decision.on(detections, accepted, "accepted"),
        Decision.on(detections, rejected, "rejected"),
        Decision.adding(len(detections), 1900, 1500),
    ]
    write_decisions(slide.folder, detections, decisions)
    (found,) = check_boxes(read_boxes([out]), select_slides([tmp_path / "square.png"]), mpp=0.25)
    np.testing.assert_allclose(found.mitoses[0], detections.found.boxes[accepted], atol=0.01)
    np.testing.assert_allclose(found.mitoses[1, :2] + found.mitoses[1, 2:], [3800, 3000])
    np.testing.assert_allclose(found.look_alikes, detections.found.boxes[[rejected]], atol=0.01)
    assert not found.whole
    assert found.looked_at(np.array([[1900.0, 1500], [1000, 1500]])).tolist() == [True, False]
