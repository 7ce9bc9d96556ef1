"""D4. MethylationToActivity: histone marks at promoters from DNA methylation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pathology.systems.system import System

if TYPE_CHECKING:
    import pandas as pd

    from pathology.omics.activity import TransferResult

__all__ = ["SYSTEM", "adapt", "run"]

SYSTEM = System(
    id="williams-2021",
    code="D4",
    title="MethylationToActivity (M2A)",
    reference="Williams J et al. 2021, Genome Biology 22:24; code chenlab-sj/M2A",
    task="H3K27ac and H3K4me3 enrichment at promoters from whole-genome methylation",
    network="3 convolutions of 8 filters 1 x 3, dense 64, dense 1, LeakyReLU 0.1; windows of 250 and 2,500 bp",
    parameters=21_089,
    status="works",
    data="tumours with whole-genome bisulfite sequencing and ChIP-seq; number of patients not found",
    notes=(
        "The published weights are read as arrays, without Keras; outputs equal a Keras run to 1e-5 (8 inputs, both "
        "marks).",
        "The authors' script sorts features by name, so the channels the network takes are the mean M value, the "
        "fraction of the region's squared deviations, and the variance; not the squared deviations themselves.",
        "Features are scaled to 0.1..1 over each sample, missing windows are 0, as in the authors' script.",
        "Transfer holds out promoters at random, as published; promoters of one gene may be on both sides.",
    ),
)


def run(methylation: Path, promoters: Path, weights: Path) -> pd.DataFrame:
    """Predict a mark at every promoter of a sample.

    Parameters
    ----------
    methylation, promoters
        Tab-separated files; see :mod:`pathology.omics.methylation`.
    weights
        One of the authors' weight files, or of :func:`adapt`.

    Returns
    -------
    DataFrame
        The promoters with the columns ``windows_with_calls`` (of 40: where it is low the prediction is unreliable)
        and ``enrichment``, log2 of ChIP over control.
    """
    from pathology.omics.activity import load_activity_weights, predict_activity
    from pathology.omics.methylation import promoter_features, read_methylation, read_promoters, scale_features

    table = read_promoters(promoters)
    features = promoter_features(table, read_methylation(methylation))
    known = (~np.isnan(features[..., 0])).sum(axis=(1, 2))
    network = load_activity_weights(weights)
    return table.assign(
        windows_with_calls=known, enrichment=predict_activity(network, scale_features(features)).round(6)
    )


def adapt(
    methylation: Path, promoters: Path, signals: Path, weights: Path, out: Path, *, seed: int = 0
) -> TransferResult:
    """Train the last layers on a sample with known histone signals and write the weights.

    Parameters
    ----------
    methylation, promoters, signals
        Tab-separated files; see :mod:`pathology.omics.methylation`.
    weights
        To start from.
    out
        ``.safetensors`` file to write.
    seed
        Determines which promoters are held out, and their order.

    Returns
    -------
    TransferResult
        Losses and held-out agreement.
    """
    from pathology.omics.activity import load_activity_weights, save_activity_weights, transfer
    from pathology.omics.methylation import (
        histone_enrichment,
        promoter_features,
        read_methylation,
        read_promoters,
        read_signals,
        scale_features,
    )

    table = read_promoters(promoters)
    features = scale_features(promoter_features(table, read_methylation(methylation)))
    target = histone_enrichment(*read_signals(signals, table))
    trained, result = transfer(load_activity_weights(weights), features, target, seed=seed)
    save_activity_weights(trained, out)
    return result
