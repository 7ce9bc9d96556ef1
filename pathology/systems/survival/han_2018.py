"""D1. Survival of synovial sarcoma: a survival neural network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.survival.crossvalidation import Candidate

__all__ = ["SYSTEM", "candidates"]

SYSTEM = System(
    id="han-2018",
    code="D1",
    title="Survival neural network for synovial sarcoma",
    reference="Han I et al. 2018, Tumor Biology 40, doi 10.1177/1010428318799264",
    task="Survival of patients with synovial sarcoma from clinical data",
    network="RED_SNN (risk-estimate-distance survival neural network), compared with a Cox model and a plain network",
    parameters=None,
    status="works",
    data="242 patients of 3 centres, 2001 to 2013; 80 % training with five-fold cross-validation, 20 % test",
    published=(
        PublishedMetric(
            metric="AUC, cross-validation",
            value="0.87 (plain network 0.792, p = 0.043)",
            cohort="training set, 80 % of 242 patients",
            source="abstract",
        ),
        PublishedMetric(
            metric="AUC, test", value="0.814 (Cox 0.629, p = 0.0001)", cohort="20 % of 242 patients", source="abstract"
        ),
    ),
    notes=(
        "The layers are those published by Ryu 2020 for the network of the same name; the widths are ours and can be "
        "set.",
        "The plain network of the comparison is not described; here it is a small network over two intervals.",
        "The cross-validated value, which reviews quote, is higher than the one on held-out patients.",
    ),
)


def candidates() -> dict[str, list[Candidate]]:
    """Return what the publication compares, for nested cross-validation: Cox, a plain network, RED_SNN."""
    from pathology.survival.crossvalidation import Candidate

    return {
        "Cox": [Candidate(kind="cox")],
        "plain network": [Candidate(kind="discrete", settings={"intervals": 2})],
        "RED_SNN": [Candidate(kind="red_snn")],
    }
