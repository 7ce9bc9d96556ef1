"""``pathology systems``: published systems, their reported performance, and the performance measured here."""

from __future__ import annotations

import json

__all__ = ["run"]


def run(*, as_json: bool) -> None:
    """Print the catalogue of published systems."""
    from pathology.systems.system import all_systems

    systems = all_systems()
    if as_json:
        print(json.dumps([system.model_dump(mode="json") for system in systems], indent=1, ensure_ascii=False))
        return
    for system in systems:
        size = f"{system.parameters:,} parameters" if system.parameters else "no fixed network"
        print(f"{system.code:4} {system.id:22} {system.status:8} {system.title}")
        print(f"     {system.network}; {size}")
        for figure in system.published:
            print(f"     published: {figure.metric} {figure.value} ({figure.cohort})")
        for own in system.own:
            low, high = own.interval
            print(
                f"     here: {own.metric} {own.value:.3g} ({low:.3g} to {high:.3g}), n={own.n} {own.unit}, {own.data}"
            )
    print("Published values are the authors' results on their own cohorts; values measured here are on other data.")
