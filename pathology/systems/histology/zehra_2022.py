"""A3. Mitoses of uterine leiomyosarcoma with a YOLOv4 detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.networks.darknet import Darknet
    from pathology.training.detector.fit import DetectorFitSettings

__all__ = ["SYSTEM", "network", "settings"]

SYSTEM = System(
    id="zehra-2022",
    code="A3",
    title="YOLOv4 mitosis detection in leiomyosarcoma",
    reference="Zehra et al. 2022, Cancers 14:3785",
    task="boxes around mitotic figures, one class",
    network="yolov4-csp with YOLOv4 heads (the released cfg; not stock YOLOv4)",
    parameters=52_496_022,
    status="works",
    data="240 mitoses for training, 108 for testing, from camera fields; available by e-mail only",
    published=(
        PublishedMetric(metric="precision", value="0.7462", cohort="108 test mitoses", source="abstract"),
        PublishedMetric(metric="recall", value="0.8981", cohort="108 test mitoses", source="abstract"),
        PublishedMetric(metric="F1", value="0.8151", cohort="108 test mitoses", source="abstract"),
    ),
    notes=(
        "The metrics equal exactly 97 true positives, 33 false positives and 11 false negatives; no interval is "
        "published (Wilson: precision 0.665-0.813, recall 0.827-0.942).",
        "The matching criterion, and whether patients are in both sets, are not published.",
        "Of the released schedule's two steps the first falls inside the burn-in and the second beyond the last "
        "iteration; the rate after the burn-in is 0.000261 throughout.",
        "The bundle mitosis-yolov4 is this graph at half width with anchors for boxes of one size, trained from random "
        "weights on human breast crops: figures on other data, comparable with none of the above.",
    ),
)


def network() -> Darknet:
    """Build the released graph with random weights: one class, COCO anchors, full width."""
    from pathology.networks.yolov4 import yolov4_csp

    return yolov4_csp(1)


def settings() -> DetectorFitSettings:
    """Return the released schedule, loss and image size."""
    from pathology.training.detector.fit import released_settings

    return released_settings()
