"""Split slides into training, validation, calibration and test sets, by patient, with every class in every set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pathology.errors import InputTableError, UsageError
from pathology.evaluation.labels import SETS, LabelledSlides
from pathology.stats.splits import SplitAudit, audit_leakage, grouped_split

__all__ = ["DEFAULT_SHARES", "audit_sets", "split_slides"]

Rows = npt.NDArray[np.int64]

DEFAULT_SHARES: Mapping[str, float] = {"train": 0.55, "validation": 0.15, "calibration": 0.15, "test": 0.15}
"""Fraction of patients per set."""


def split_slides(
    labelled: LabelledSlides,
    *,
    shares: Mapping[str, float] = DEFAULT_SHARES,
    seed: int = 0,
    keep_sites: bool = False,
    among: Rows | None = None,
) -> dict[str, Rows]:
    r"""Split slides into sets.

    Every patient is in one set.  Classes are split separately, so that each set has at least one patient per class.
    With ``keep_sites`` this cannot be guaranteed and is checked instead.  Sets assigned in the table are kept.

    Parameters
    ----------
    labelled
        Labelled slides.
    shares
        Relative fraction of patients per set, above 0; normalised to their sum.
    seed
        Random seed.
    keep_sites
        Keep each hospital in one set.
    among
        Rows to split; ``None``: all.

    Returns
    -------
    dict of str to numpy.ndarray
        Row numbers of each set, ascending.

    Raises
    ------
    UsageError
        If a class has fewer patients than there are sets, or a site is missing.
    InputTableError
        If the table assigns the sets and one of them lacks a class.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pathology.evaluation import read_labels
    >>> from pathology.scoring.select import SlideEntry
    >>> table = folder / "labels.csv"
    >>> rows = "".join(f"s{i},P{i},{'stroma' if i % 2 else 'tumour'}\n" for i in range(40))
    >>> _ = table.write_text("slide_id,patient_id,label\n" + rows)
    >>> slides = [SlideEntry(f"s{i}", Path(f"s{i}.svs")) for i in range(40)]
    >>> labelled = read_labels(table, slides, ["stroma", "tumour"])
    >>> {name: len(rows) for name, rows in split_slides(labelled).items()}
    {'train': 22, 'validation': 6, 'calibration': 6, 'test': 6}
    """
    rows = np.arange(len(labelled)) if among is None else np.sort(np.asarray(among, np.int64))
    slides = [labelled.slides[i] for i in rows]
    if slides[0].set is not None and among is None:
        sets = {name: rows[[slide.set == name for slide in slides]] for name in shares}
        _check_classes(labelled, sets)
        return sets
    if keep_sites:
        missing = [slide.slide_id for slide in slides if not slide.site]
        if missing:
            raise UsageError(
                f"--keep-sites requires a site, but {len(missing)} slides have none: {missing[0]}",
                remedy="Fill in the column 'site'",
            )
        parts = grouped_split(
            [slide.patient_id for slide in slides],
            [slide.label for slide in slides],
            shares={name: share / math.fsum(shares.values()) for name, share in shares.items()},
            seed=seed,
            sites=[slide.site for slide in slides],
        )
        sets = {name: rows[part] for name, part in parts.items()}
        _check_classes(labelled, sets)
        return sets
    random = np.random.default_rng(seed)
    part_of: dict[str, str] = {}
    for number, name in enumerate(labelled.classes):
        patients = sorted({slide.patient_id for slide in slides if slide.label == number})
        sizes = _sizes(len(patients), list(shares.values()), name)
        names = np.repeat(list(shares), sizes)
        part_of.update(zip(random.permutation(patients).tolist(), names.tolist(), strict=True))
    return {name: rows[[part_of[slide.patient_id] == name for slide in slides]] for name in shares}


def _sizes(patients: int, shares: Sequence[float], name: str) -> list[int]:
    """Apportion by largest remainder; an empty set takes one patient from the largest."""
    if patients < len(shares):
        raise UsageError(
            f"class {name} has only {patients} patients for {len(shares)} sets",
            remedy="Add patients, exclude the class, or use fewer sets",
        )
    exact = [patients * share / math.fsum(shares) for share in shares]
    sizes = [math.floor(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: (math.floor(exact[i]) - exact[i], i))
    for i in order[: patients - sum(sizes)]:
        sizes[i] += 1
    while 0 in sizes:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes


def _check_classes(labelled: LabelledSlides, sets: Mapping[str, Rows]) -> None:
    for name, rows in sets.items():
        held = {labelled.slides[i].label for i in rows}
        lacking = [labelled.classes[c] for c in range(len(labelled.classes)) if c not in held]
        if lacking:
            raise InputTableError(
                f"set '{name}' has no slide of {', '.join(lacking)}",
                remedy="Move patients between sets or sites, or exclude the class",
            )


def audit_sets(
    labelled: LabelledSlides,
    sets: Mapping[str, Rows],
    *,
    fingerprints: Sequence[str],
    keep_sites: bool = False,
) -> SplitAudit:
    """Raise an error if a patient, a slide or, on request, a site is in two sets.

    Parameters
    ----------
    labelled
        Labelled slides.
    sets
        Row numbers by set.
    fingerprints
        Fingerprint of each slide file; equal for files with equal pixels, whatever their names.
    keep_sites
        Whether a hospital in two sets counts as leakage.

    Raises
    ------
    LeakageError
        If there is leakage; the message lists the first rows.
    """
    unknown = [name for name in sets if name not in SETS]
    if unknown:
        raise UsageError(f"unknown set '{unknown[0]}'", remedy=f"Use {', '.join(SETS)}")
    return audit_leakage(
        sets,
        patients=labelled.patients,
        fingerprints=fingerprints,
        sites=[slide.site or "" for slide in labelled.slides] if keep_sites else None,
    )
