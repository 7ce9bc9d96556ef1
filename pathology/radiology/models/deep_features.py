"""Deep features: penultimate-layer activations of a network, averaged over the slices of a patient.

The network is not trained on the cohort: it is pretrained elsewhere (ImageNet, another data set), or its weights
are random.  Features of a network trained on the test patients would leak.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from pathology.networks.torchvision_classifiers import CLASSIFIERS, classifier_features
from pathology.radiology.io.cohort import Cohort
from pathology.radiology.models.image_recipe import ImageRecipe
from pathology.radiology.models.pretrained import start_from
from pathology.radiology.models.recipe import Progress
from pathology.radiology.models.training_loop import seeded
from pathology.settings import Record

__all__ = ["DeepFeatureSettings", "deep_feature_table"]


class DeepFeatureSettings(Record):
    """Settings of deep feature extraction."""

    sequence: str
    """Sequence with a tumour mask."""
    backbone: Literal["alexnet", "densenet161", "resnet18", "resnet34", "resnet50", "vgg19"] = "resnet50"
    """Network."""
    start: str = "random"
    """``imagenet``, a safetensors file, or ``random``: untrained filters, a weak baseline."""
    slices: Annotated[int, Field(ge=1)] = 8
    """Slices per patient."""
    size: Annotated[int, Field(ge=63)] = 224
    """Input size in pixels."""
    seed: int = 0
    """Seed of random weights."""


def deep_feature_table(
    cohort: Cohort, settings: DeepFeatureSettings, *, device: str = "cpu", progress: Progress | None = None
) -> pd.DataFrame:
    """Compute a table with one row per patient and columns ``deep-<sequence>:<number>``."""
    network = seeded(lambda: CLASSIFIERS[settings.backbone](2), settings.seed)
    start_from(network, settings.backbone, settings.start)
    body = classifier_features(network).to(device).eval()
    # Only slice reading is reused; label and classifier of the recipe are not.
    reader = ImageRecipe(
        sequences=(settings.sequence,),
        label="none",
        classes=("0", "1"),
        slices=settings.slices,
        size=settings.size,
        classifier={"architecture": settings.backbone},
    )
    rows = {}
    with torch.inference_mode():
        for number, case in enumerate(cohort.cases):
            images = torch.from_numpy(reader.prepare(case)).to(device)
            rows[case.patient_id] = body(images).float().mean(dim=0).cpu().numpy().astype(np.float64)
            if progress is not None:
                progress("deep features", number + 1, len(cohort))
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.columns = pd.Index([f"deep-{settings.sequence}:{i}" for i in range(table.shape[1])])
    table.index.name = "patient_id"
    return table
