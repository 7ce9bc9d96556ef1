"""Quantise a bundle's network to 8-bit integers using slides, and save it only if it agrees with fp32.

Some slides are used for calibration, the others for validation, since agreement on calibration slides says nothing
about others.  All values compare the network with itself in fp32; they need no labels and do not measure accuracy.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pathology.bundle.card import CARD_NAME, Int8, Int8Agreement, validate_card, write_card
from pathology.bundle.catalogue import load_bundle, user_folder
from pathology.bundle.export import EVALUATION_NAME, import_bundle
from pathology.bundle.int8 import INT8_NAMES
from pathology.bundle.weights import file_sha256
from pathology.errors import BundleError, OutputError, UsageError
from pathology.inference.engines.recheck import MARGIN, rows_near_tie
from pathology.scoring.select import SlideEntry, select_slides
from pathology.settings import GridSettings, TissueSettings
from pathology.stats.out_of_distribution import slide_score

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle
    from pathology.inference.engines.base import Engine
    from pathology.slide.stain.normalise import StainNormaliser
    from pathology.tiling.plan import TilePlan

__all__ = ["LIMITS", "chosen_margin", "quantise_bundle", "quantised_agreement"]

LIMITS: Final = {
    "mean_difference": 0.003,
    "same_class": 0.999,
    "slide_difference": 0.005,
    "domain_difference": 0.05,
}
"""Required agreement of low precision with fp32: upper limits for the mean difference of probabilities and the largest
difference of a slide's, a lower limit for the proportion of patches with the same class, and an upper limit for the
relative change of a slide's out-of-distribution score, of which bf16 alone causes 2 %.  No slide's warning may
change."""

_CALIBRATION: Final = 256
"""Largest number of patches for calibrating layers."""
_CALIBRATION_READ: Final = 1_000
"""Largest number of patches of the calibration slides for choosing the margin."""
_MOST: Final = 5_000
"""Largest number of patches compared; with more slides, fewer of each."""
_A_SLIDE: Final = 50
"""Smallest number of patches for comparing a slide by itself; with fewer, single patches dominate its mean."""
_SAFETY: Final = 1.5
"""Factor by which the margin exceeds the largest relevant shift observed."""
_CLOSE: Final = 0.3
"""Patches count for the margin if their two highest probabilities are at most this far apart in fp32."""


@dataclass(frozen=True)
class _Planned:
    """A slide and its patches."""

    entry: SlideEntry
    plan: TilePlan
    stain: StainNormaliser | None
    ks: tuple[int, ...]
    """Indices of the blocks used."""

    @property
    def patches(self) -> int:
        return sum(int(self.plan.offsets[k + 1] - self.plan.offsets[k]) for k in self.ks)

    def of_about(self, count: int) -> _Planned:
        """The same slide with blocks of at most about ``count`` patches, spread over the slide; at least one block."""
        if self.patches <= count:
            return self
        share = max(1, int(len(self.ks) * count / self.patches))
        places = np.unique(np.linspace(0, len(self.ks) - 1, share).astype(int))
        return _Planned(self.entry, self.plan, self.stain, tuple(self.ks[place] for place in places))


def quantise_bundle(
    model: str | Path,
    slides: Sequence[str | PathLike[str]],
    *,
    name: str | None = None,
    folder: Path | None = None,
    stride: int | None = None,
    mpp: float | None = None,
    minimum: int = 1_000,
    replace: bool = False,
    progress: Callable[[str], None] = lambda _said: None,
) -> Bundle:
    """Write a copy of a classifier's bundle with an additional int8 network, if it agrees with fp32.

    Slides of about a quarter of the patients are used for calibration (a quarter of the slides if patients are unknown;
    of a single slide, the first quarter of its blocks); all others are used for validation.  The split depends only on
    their order.

    Parameters
    ----------
    model
        A classifier's name or folder.
    slides
        Slide files, folders or CSV manifests; a manifest can state the patient of each slide.
    name
        Name of the new bundle; ``None``: the model's name with ``-int8``.
    folder
        Where to save it; ``None``: the user's folder (:func:`pathology.bundle.catalogue.user_folder`).
    stride
        Distance between patches in pixels at the model's scale; ``None``: the model's.
    mpp
        Micrometres per level-0 pixel, overriding files and manifests.
    minimum
        Smallest number of patches to compare.
    replace
        Replace a bundle of the same name.
    progress
        Called with a description of each step.

    Returns
    -------
    Bundle
        The new bundle; its card contains the agreement measured.

    Raises
    ------
    UsageError
        If the model is a detector, or the slides yield too few patches; the message states how many are missing.
    BundleError
        If it does not agree with fp32 (the message states the differences), or a bundle with this name exists.  Nothing
        is written in that case.
    MissingDependencyError
        If NNCF or OpenVINO is not installed.
    SlideError
        If a slide cannot be read.
    """
    from pathology.inference.engines.openvino import OpenVINOEngine
    from pathology.inference.engines.quantise import quantise_network, quantiser_version, require_quantiser

    require_quantiser()
    bundle = load_bundle(model)
    card = bundle.card
    if card.task != "classification":
        raise UsageError(
            f"{card.name} is a detector; only classifiers can be quantised to 8-bit integers",
            remedy="Use it unquantised: boxes have no near ties that could be rechecked",
        )
    if len(card.classes) < 2:
        raise UsageError(f"{card.name} has only one class, so there are no near ties to recheck")
    name = name or f"{card.name}-int8"
    fields = card.model_dump(mode="json", exclude_defaults=True) | {"name": name}
    validate_card(fields, bundle.directory / CARD_NAME)  # reject an invalid name before any work
    target = (folder or user_folder()) / name
    if target.exists() and not replace:
        raise BundleError(
            f"a model named {name!r} already exists", where=target, remedy="Choose another name, or use --replace"
        )
    grid = GridSettings(patch=card.patch, mpp=card.mpp, stride=stride or card.stride or card.patch)
    progress("choosing patches")
    planned = [_plan(entry, bundle, grid, mpp) for entry in select_slides(list(slides))]
    calibrating, checking, apart = _split(planned)
    total = sum(slide.patches for slide in checking)
    if total < minimum:
        raise UsageError(
            f"only {total:,} patches remain to compare with fp32; {minimum:,} are required ({minimum - total:,} more)",
            remedy="Add slides, or use overlapping patches (--stride), which the card will state",
        )
    with _staging(target.parent) as staged:
        graph = staged / INT8_NAMES[0]
        exact = OpenVINOEngine(bundle)
        try:
            seen = _read(calibrating, _CALIBRATION_READ)
            chosen = np.unique(np.linspace(0, len(seen) - 1, min(_CALIBRATION, len(seen))).astype(int))
            progress(f"calibrating on {len(chosen)} of {len(seen):,} patches of {len(calibrating)} slides")
            quantise_network(bundle, seen[chosen], graph)
            fast = OpenVINOEngine(bundle, precision="int8", graph=graph)
            try:
                classes = len(card.classes)
                margin = chosen_margin(fast.predict(seen)[:, :classes], exact.predict(seen)[:, :classes])
                del seen
                share = max(1, round(_MOST / len(checking)))
                some = [slide.of_about(share) if total > _MOST else slide for slide in checking]
                progress(f"comparing {sum(slide.patches for slide in some):,} patches of {len(some)} slides with fp32")
                pairs = [_compared(slide, fast, exact) for slide in some]
            finally:
                fast.close()
        finally:
            exact.close()
        rule = card.trust.out_of_domain if card.trust is not None else None
        found = quantised_agreement(
            {slide.entry.slide_id: pair for slide, pair in zip(some, pairs, strict=True)},
            classes=classes,
            margin=margin,
            stride=grid.stride,
            apart=apart,
        )
        _require(found, pairs, classes, rule.limit if rule is not None else None, bundle, minimum)
        int8 = Int8(
            graph_sha256=file_sha256(graph),
            constants_sha256=file_sha256(staged / INT8_NAMES[1]),
            margin=margin,
            calibration_slides=tuple(slide.entry.slide_id for slide in calibrating),
            calibration_patches=len(chosen),
            made_by=quantiser_version(),
            agreement=found,
        )
        for file in sorted(bundle.directory.iterdir()):
            if file.suffix == ".safetensors" or file.name == EVALUATION_NAME:
                shutil.copyfile(file, staged / file.name)
        fields |= {"title": f"{card.title}, with int8 network", "int8": int8.model_dump(mode="json")}
        write_card(validate_card(fields, staged / CARD_NAME), staged / CARD_NAME)
        return import_bundle(staged, folder=target.parent, replace=replace)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    staged = folder / f".{secrets.token_hex(8)}.partial"
    try:
        staged.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"cannot write the bundle ({error.strerror or error})", where=folder) from error
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


# -- slides ------------------------------------------------------------------------------------------------------


def _plan(entry: SlideEntry, bundle: Bundle, grid: GridSettings, mpp: float | None) -> _Planned:
    from pathology.scoring.prepare import prepare
    from pathology.slide.open import open_reader

    with open_reader(entry.path) as reader:
        slide = prepare(
            reader,
            option_mpp=mpp,
            manifest_mpp=entry.mpp,
            tissue=TissueSettings(),
            quality=None,
            grid=lambda _: grid,
            stain=bundle.card.stain,
        )
    return _Planned(entry, slide.plan, slide.stain, tuple(range(len(slide.plan.blocks))))


def _split(
    slides: Sequence[_Planned],
) -> tuple[list[_Planned], list[_Planned], Literal["patients", "slides", "places"]]:
    """Split the slides into calibration and validation."""
    if len(slides) == 1:
        (slide,) = slides
        first = max(1, len(slide.ks) // 4)
        parts = [_Planned(slide.entry, slide.plan, slide.stain, ks) for ks in (slide.ks[:first], slide.ks[first:])]
        return parts[:1], parts[1:] if parts[1].ks else [], "places"
    patients = [slide.entry.patient_id for slide in slides]
    by_patient = None not in patients and len(set(patients)) > 1
    owners = [str(p) if by_patient else slide.entry.slide_id for p, slide in zip(patients, slides, strict=True)]
    groups = list(dict.fromkeys(owners))
    # A reproducible order of the patients that does not depend on how the slides were sorted.
    groups.sort(key=lambda owner: hashlib.sha256(owner.encode()).digest())
    calibrating = set(groups[: max(1, len(groups) // 4)])
    split: tuple[list[_Planned], list[_Planned]] = ([], [])
    for owner, slide in zip(owners, slides, strict=True):
        split[owner not in calibrating].append(slide)
    return *split, "patients" if by_patient else "slides"


def _read(slides: Sequence[_Planned], most: int) -> NDArray[np.uint8]:
    """Read patches into memory, spread over the slides, skipping those that cannot be decoded."""
    from pathology.slide.open import open_reader
    from pathology.tiling.blocks import BlockReader

    parts = []
    for slide in slides:
        some = slide.of_about(max(1, most // len(slides)))
        with open_reader(slide.entry.path) as reader:
            blocks = BlockReader(reader, some.plan.grid, some.stain.apply if some.stain is not None else None)
            for k in some.ks:
                read = blocks.read(int(some.plan.blocks[k]), some.plan.positions[some.plan.of_block(k)])
                parts.append(read.pixels[read.readable])
    found = np.concatenate(parts)
    spread: NDArray[np.uint8] = found[np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))]
    return spread


def _compared(slide: _Planned, fast: Engine, exact: Engine) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``(N, C + extras)`` outputs of both engines for a slide's readable patches."""
    from pathology.inference.reading.pipeline import predict_blocks
    from pathology.inference.reading.threads import ReadingThreads
    from pathology.slide.open import open_reader
    from pathology.tiling.blocks import BlockReader

    def both(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([fast.predict(patches), exact.predict(patches)], axis=1)

    width = fast.classes
    with open_reader(slide.entry.path) as reader:
        blocks = BlockReader(reader, slide.plan.grid, slide.stain.apply if slide.stain is not None else None)
        with ReadingThreads(blocks, slide.plan, 2) as source:
            predicted = predict_blocks(both, 2 * width, fast.preferred_batch, source, slide.plan, slide.ks)
            outputs = np.concatenate([block.probabilities for block in predicted])
    outputs = outputs[~np.isnan(outputs).all(axis=1)]
    return outputs[:, :width], outputs[:, width:]


# -- metrics -----------------------------------------------------------------------------------------------------


def chosen_margin(fast: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Choose the margin of near ties on the calibration patches.

    A wrong class goes unnoticed if low precision changes the difference of two probabilities by more than the margin
    and reverses their order.  This can only happen near a tie: the margin is 1.5 times the largest such change among
    patches whose two highest probabilities are within 0.3 in fp32, and at least that of bf16.

    Parameters
    ----------
    fast, exact
        ``(N, C)`` probabilities of the same patches.
    """
    order = np.argsort(exact, axis=1)[:, -2:]
    close = np.take_along_axis(exact, order, axis=1)
    near = close[:, 1] - close[:, 0] <= _CLOSE
    moved = np.abs(np.diff(np.take_along_axis(fast, order, axis=1) - close, axis=1))[near]
    return float(min(0.99, max(MARGIN, _SAFETY * float(moved.max(initial=0.0)))))


def quantised_agreement(
    slides: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    classes: int,
    margin: float,
    stride: int,
    apart: Literal["patients", "slides", "places"],
) -> Int8Agreement:
    """Compare two precisions slide by slide, with near ties of the first replaced by the second.

    Parameters
    ----------
    slides
        By slide, the ``(N, C + extras)`` outputs of the fast and of the exact engine; the first of the extras, if any,
        is the out-of-distribution score.
    classes
        ``C``.
    margin
        Of near ties.
    stride, apart
        Stored in the record.
    """
    mixed, alone, exact = [], [], []
    again = 0
    for fast, reference in slides.values():
        doubtful = rows_near_tie(fast[:, :classes], margin)
        corrected = fast.copy()
        corrected[doubtful] = reference[doubtful]
        again += len(doubtful)
        mixed.append(corrected)
        alone.append(fast[:, :classes])
        exact.append(reference)
    compared = _whole_slides(list(zip(mixed, exact, strict=True)))
    of_slides = [np.abs(a[:, :classes].mean(axis=0) - b[:, :classes].mean(axis=0)).max() for a, b in compared]
    of_domain = [
        abs(slide_score(a[:, classes]) / slide_score(b[:, classes]) - 1) for a, b in compared if a.shape[1] > classes
    ]
    got, expected = (np.concatenate(parts)[:, :classes] for parts in (mixed, exact))
    raw = np.concatenate(alone)
    predicted = expected.argmax(axis=1)
    difference = np.abs(got - expected)
    return Int8Agreement(
        patches=len(got),
        slides=tuple(slides),
        apart=apart,
        stride=stride,
        mean_difference=round(float(difference.mean()), 6),
        largest_difference=round(float(difference.max()), 6),
        same_class=float((got.argmax(axis=1) == predicted).mean()),
        same_class_alone=float((raw.argmax(axis=1) == predicted).mean()),
        computed_again=again / len(got),
        slide_difference=round(float(max(of_slides)), 6),
        smallest_slide=_A_SLIDE,
        domain_difference=round(float(max(of_domain)), 6) if of_domain else None,
    )


def _whole_slides(
    slides: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Pool slides with few patches into one."""
    small = [pair for pair in slides if len(pair[0]) < _A_SLIDE]
    together = [(np.concatenate([a for a, _ in small]), np.concatenate([b for _, b in small]))] if small else []
    return [pair for pair in slides if len(pair[0]) >= _A_SLIDE] + together


def _require(
    found: Int8Agreement,
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    classes: int,
    limit: float | None,
    bundle: Bundle,
    minimum: int,
) -> None:
    """Reject a network that does not reach the required agreement, listing all violations."""
    n = f"{found.patches:,} patches of {len(found.slides)} slides"
    if found.patches < minimum:
        raise UsageError(f"only {n} could be read; {minimum:,} are required", remedy="Add slides")
    wrong = []
    if not found.mean_difference <= LIMITS["mean_difference"]:
        wrong.append(f"mean difference {found.mean_difference:.4f} (at most {LIMITS['mean_difference']:g})")
    if not found.same_class >= LIMITS["same_class"]:
        wrong.append(f"same class on {found.same_class:.2%} (at least {LIMITS['same_class']:.1%})")
    if not found.slide_difference <= LIMITS["slide_difference"]:
        wrong.append(f"a slide differs by {found.slide_difference:.4f} (at most {LIMITS['slide_difference']:g})")
    if found.domain_difference is not None and not found.domain_difference <= LIMITS["domain_difference"]:
        wrong.append(
            f"a slide's out-of-distribution score differs by {found.domain_difference:.1%} (at most"
            f" {LIMITS['domain_difference']:.0%})"
        )
    if limit is not None:
        warned = [[slide_score(outputs[:, classes]) > limit for outputs in pair] for pair in _whole_slides(pairs)]
        if other := sum(fast != exact for fast, exact in warned):
            wrong.append(f"the out-of-distribution warning changes for {other} slides")
    if wrong:
        raise BundleError(
            f"the int8 network of {bundle.name} differs too much from fp32 on {n}: {'; '.join(wrong)}; not saved",
            remedy="Calibrate on more and different slides, or use the model without quantisation",
        )
