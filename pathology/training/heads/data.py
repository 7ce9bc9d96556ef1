"""Training data of a head: one row per slide, or per patient, held as vectors and a sample of patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.errors import InputTableError, LeakageError
from pathology.evaluation.labels import LabelledSlide, LabelledSlides, read_labels
from pathology.features.bag import deciles, read_bag
from pathology.features.slide_features import SlideFeatures
from pathology.scoring.select import SlideEntry
from pathology.stats.splits import content_digest
from pathology.text_tables import read_text_table

__all__ = ["BAG_PATCHES", "SAMPLE_PATCHES", "HeadData", "labelled_features", "load_data", "require_sites"]

SAMPLE_PATCHES: Final = 16_384
"""Largest number of patches behind deciles: 100 MB of 1,536 numbers."""
BAG_PATCHES: Final = 1024
"""Largest number of patches that attention and transformer see of a slide, in training and in use."""
_DOMAIN_PATCHES: Final = 64
_HELD_BYTES: Final = 1 << 30


@dataclass(frozen=True, eq=False)
class HeadData:
    """N rows, in memory.

    Attributes
    ----------
    classes, labels, patients, sites
        Class names; class number, patient and hospital of each row.
    means
        ``(N, D)`` float32.
    deciles
        ``(N, 10 D)`` float32; see :func:`pathology.features.bag.deciles`.
    bags
        Sampled patches of each row, ``(n, D)`` float16.
    slides, patches
        Number of slides and patches behind all rows.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    patients: list[str]
    sites: list[str] | None
    means: NDArray[np.float32]
    deciles: NDArray[np.float32]
    bags: list[NDArray[np.float16]]
    slides: int
    patches: int

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)


def labelled_features(labels: Path, features: Sequence[SlideFeatures], classes: Sequence[str] = ()) -> LabelledSlides:
    """Read the label table and match it to the features.

    Parameters
    ----------
    labels
        See :func:`pathology.evaluation.read_labels`.
    features
        Of all slides.
    classes
        Class names in order; empty: the labels of the table, sorted.

    Raises
    ------
    InputTableError, UsageError
        As :func:`pathology.evaluation.read_labels`.
    """
    if not classes:
        table = read_text_table(
            labels, {"label": ("class", "diagnosis", "subtype", "target")}, required=("label",), kind="label table"
        )
        classes = sorted({row.values["label"] for row in table.rows if row.values["label"]})
    return read_labels(labels, [SlideEntry(f.slide_id, f.path) for f in features], classes, patients_per_class=2)


def load_data(
    labelled: LabelledSlides,
    features: Sequence[SlideFeatures],
    *,
    one_bag: bool,
    hold: bool,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> HeadData:
    """Read all features once.

    Parameters
    ----------
    labelled, features
        As matched by :func:`labelled_features`.
    one_bag
        All slides of a patient are one row.
    hold
        Keep up to :data:`BAG_PATCHES` patches of each row, which attention and transformer need; at most 1 GiB.
    progress
        Called with the number of rows read and of all.

    Raises
    ------
    LeakageError
        If two slides have the same features: one slide under two names.
    StoreError
        If features cannot be read.
    """
    by_id = {found.slide_id: found for found in features}
    rows: dict[str, list[LabelledSlide]] = {}
    for slide in labelled.slides:
        rows.setdefault(slide.patient_id if one_bag else slide.slide_id, []).append(slide)
    kept = BAG_PATCHES if hold else _DOMAIN_PATCHES
    vector = features[0].vector
    kept = max(1, min(kept, _HELD_BYTES // (2 * vector * len(rows))))
    means = np.empty((len(rows), vector), np.float32)
    tenths = np.empty((len(rows), 10 * vector), np.float32)
    bags, patches = [], 0
    for number, group in enumerate(rows.values()):
        bag = read_bag([by_id[slide.slide_id] for slide in group], SAMPLE_PATCHES)
        means[number], tenths[number] = bag.mean, deciles(bag.sample)
        bags.append(bag.thinned(kept).astype(np.float16))
        patches += bag.count
        progress(number + 1, len(rows))
    _refuse_copies(tenths, [" and ".join(slide.slide_id for slide in group) for group in rows.values()])
    first = [group[0] for group in rows.values()]
    return HeadData(
        labelled.classes,
        np.array([slide.label for slide in first], np.int64),
        [slide.patient_id for slide in first],
        [slide.site or "" for slide in first] if all(slide.site for slide in first) else None,
        means,
        tenths,
        bags,
        len(labelled),
        patches,
    )


def _refuse_copies(tenths: NDArray[np.float32], names: Sequence[str]) -> None:
    """Refuse one slide under two names; the order of patches and the precision of the file do not hide it."""
    seen: dict[str, str] = {}
    for row, name in zip(tenths, names, strict=True):
        other = seen.setdefault(content_digest(row.astype(np.float16)), name)
        if other != name:
            raise LeakageError(
                f"{other} and {name} have the same features: one slide under two names",
                remedy="Remove one of them from the label table",
            )


def require_sites(data: HeadData, where: Path) -> list[str]:
    """Return the hospital of each row.

    Raises
    ------
    InputTableError
        If one is missing.
    """
    if data.sites is None:
        raise InputTableError("column 'site' is missing or empty in a row", where=where, remedy="Fill it in")
    return data.sites
