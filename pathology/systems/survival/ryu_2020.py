"""D2. Survival of spinal and pelvic chondrosarcoma: RED_SNN on a cancer registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.survival.covariates import CovariateSettings
    from pathology.survival.crossvalidation import Candidate

__all__ = ["SYSTEM", "candidates", "covariates"]

SYSTEM = System(
    id="ryu-2020",
    code="D2",
    title="RED_SNN for spinal and pelvic chondrosarcoma",
    reference="Ryu SM, Seo SW, Lee SH 2020, BMC Medical Informatics and Decision Making 20:3, "
    "doi 10.1186/s12911-019-1008-4",
    task="Survival in windows of ten months from registry data",
    network="RED_SNN: 8 layers, 2 of them LSTM, 26 covariates and 2 latent features in, event and time out",
    parameters=None,
    status="works",
    data="1,088 patients of SEER 18; 870 for training with five-fold cross-validation, 218 for the test",
    published=(
        PublishedMetric(
            metric="C-index, cross-validation",
            value="median 0.84 (95 % CI 0.79-0.87)",
            cohort="870 patients",
            source="abstract",
        ),
        PublishedMetric(metric="C-index, test", value="0.82", cohort="218 patients", source="abstract"),
        PublishedMetric(
            metric="AUC, mean of 30 windows", value="0.85 (SD 0.02)", cohort="218 patients", source="abstract"
        ),
    ),
    notes=(
        "A bone sarcoma, and not a convolutional network, contrary to a review.",
        "Published: windows of 10 months, target [event, time] per window, cosine distance, alpha as weight of death, "
        "sequential training window by window, 8 layers with 2 LSTM, 28 inputs, 2 linear outputs.",
        "Not published, chosen here: widths; alpha scales the target's event component; a patient is excluded from the "
        "loss from the window of censoring on; the output of a window is the latent input of the next.",
        "The network gives a severity; survival probabilities come from a one-covariate proportional hazards model "
        "fitted to severities predicted out of fold for training patients.",
    ),
)


def covariates(numeric: tuple[str, ...], categorical: tuple[str, ...]) -> CovariateSettings:
    """Return the covariate settings: missing values are imputed from the nearest training patients, as published.

    Parameters
    ----------
    numeric, categorical
        Columns.
    """
    from pathology.survival.covariates import CovariateSettings

    return CovariateSettings(numeric=numeric, categorical=categorical, imputation="knn")


def candidates() -> dict[str, list[Candidate]]:
    """Return RED_SNN and the models it is compared with, for nested cross-validation."""
    from pathology.survival.crossvalidation import Candidate

    return {
        "Cox": [Candidate(kind="cox")],
        "DeepSurv": [Candidate(kind="deepsurv")],
        "DeepHit": [Candidate(kind="deephit")],
        "RED_SNN": [Candidate(kind="red_snn")],
    }
