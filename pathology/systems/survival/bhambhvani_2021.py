"""D3. Five-year survival of genitourinary rhabdomyosarcoma: a dense network with two heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.survival.crossvalidation import Candidate

__all__ = ["SYSTEM", "candidates"]

SYSTEM = System(
    id="bhambhvani-2021",
    code="D3",
    title="Dense network for genitourinary rhabdomyosarcoma",
    reference="Bhambhvani HP et al. 2021, genitourinary rhabdomyosarcoma, SEER; code alvarozamora/UroRhabdo",
    task="Overall and disease-specific survival at 60 months from nine registry variables",
    network="trunk of 8 x 256, heads for probability and months, 9 inputs",
    parameters=683_010,
    status="works",
    data="277 patients of SEER, of whom 201 remain after dropping unknown values and those alive before 60 months",
    published=(
        PublishedMetric(metric="AUC, overall survival", value="0.93", cohort="201 patients of SEER", source="review"),
        PublishedMetric(
            metric="AUC, disease-specific survival", value="0.91", cohort="201 patients of SEER", source="review"
        ),
    ),
    notes=(
        "The published AUCs are selected on the test fold: the epoch with the best test AUC is kept, and a fold is "
        "restarted until its test AUC reaches 0.85. The rule is kept as published_rule() to measure its optimism.",
        "Here the epoch is chosen on held-out training patients, within nested cross-validation.",
        "The publication drops patients alive with less than 60 months of follow-up; here inverse-probability-of-"
        "censoring weights account for them.",
        "The published code saves its disease-specific networks under the same names as the overall-survival ones.",
        "SEER's terms do not allow redistribution, so no SEER rows are included.",
    ),
)


def candidates() -> dict[str, list[Candidate]]:
    """Return the network for nested cross-validation; the published 5,000 epochs are an upper bound."""
    from pathology.survival.crossvalidation import Candidate

    return {"Bhambhvani": [Candidate(kind="bhambhvani")]}
