"""From a folder of features and a table of labels to a bundle."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pathology._version import __version__
from pathology.atomic_files import write_text
from pathology.bundle.card import Metric, TrainingData
from pathology.bundle.domain import write_domain
from pathology.bundle.head_card import HEAD_CARD_NAME, EncoderReference, HeadCard, write_head, write_head_card
from pathology.encoders.published import find_published
from pathology.features.folder import find_features
from pathology.features.slide_features import SlideFeatures
from pathology.stats.classification import classification_report
from pathology.stats.intervals import Interval
from pathology.stats.splits import NestedFold, audit_leakage, grouped_k_fold, nested_folds
from pathology.training.common.card_metrics import interval_metric
from pathology.training.heads.compare import Difference, area, choose_head, differences
from pathology.training.heads.crossvalidate import CalibratedHead, HeldOut, fit_calibrated, predict_held_out
from pathology.training.heads.data import (
    BAG_PATCHES,
    SAMPLE_PATCHES,
    HeadData,
    labelled_features,
    load_data,
    require_sites,
)
from pathology.training.heads.fit import BAG_HEADS
from pathology.training.heads.settings import HEADS, HeadSettings
from pathology.training.heads.trust import feature_domain, fit_head_trust

__all__ = ["TrainedHead", "train_heads"]

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """What :func:`train_heads` made.

    Attributes
    ----------
    folder, card
        The bundle and its card.
    areas
        Mean AUC of each head within the outer folds.
    differences
        Paired, of every two heads.
    """

    folder: Path
    card: HeadCard
    areas: dict[str, Interval]
    differences: tuple[Difference, ...]


def train_heads(
    settings: HeadSettings,
    out: Path,
    *,
    say: Say = lambda _line: None,
    reading: Callable[[int, int], None] = lambda _done, _all: None,
) -> TrainedHead:
    """Train, evaluate by nested cross-validation, calibrate and write a bundle.

    Parameters
    ----------
    settings
        Features, labels and head; with ``all``, the simplest head is kept that no other beats beyond chance.
    out
        The bundle's folder; its name is the bundle's.
    say
        Called with progress lines.
    reading
        Called with the number of rows read and of all.

    Raises
    ------
    InputTableError, UsageError
        If labels and features do not fit, or there are too few patients.
    LeakageError
        If a slide is there twice.
    StoreError
        If features cannot be read.

    Examples
    --------
    Features of 24 patients in which one number is higher in one of two classes:

    >>> from pathology.features.store import write_store
    >>> from pathology.training.heads import HeadSettings
    >>> rows = ["slide_id,patient_id,label"]
    >>> (folder / "features").mkdir()
    >>> for n in range(24):
    ...     vectors = np.random.default_rng(n).normal(size=(30, 4)) + [3 * (n % 2), 0, 0, 0]
    ...     about = {"slide_id": f"S{n}", "encoder": {"encoder": "uni2-h", "weights_sha256": "0" * 64}}
    ...     about |= {"patch_level0": 256, "mpp": 0.5, "fingerprint": f"S{n}"}
    ...     path = folder / "features" / f"S{n}.zarr"
    ...     write_store(path, np.zeros((30, 2), int), [vectors.astype("float32")], 4, about)
    ...     rows.append(f"S{n},P{n},{'LMS' if n % 2 else 'DDLPS'}")
    >>> _ = (folder / "labels.csv").write_text(chr(10).join(rows))
    >>> settings = HeadSettings(features=folder / "features", labels=folder / "labels.csv", head="mean", folds=3)
    >>> trained = train_heads(settings, folder / "subtypes")
    >>> trained.card.classes
    ('DDLPS', 'LMS')
    """
    kinds = HEADS if settings.head == "all" else (settings.head,)
    features = find_features(settings.features, encoder=settings.encoder)
    labelled = labelled_features(settings.labels, features, settings.classes)
    data = load_data(
        labelled,
        features,
        one_bag=settings.patient == "bag",
        hold=any(kind in BAG_HEADS for kind in kinds),
        progress=reading,
    )
    sites = require_sites(data, settings.labels) if settings.keep_sites else None
    folds = nested_folds(
        data.patients, data.labels, outer=settings.folds, inner=settings.inner, seed=settings.seed, sites=sites
    )
    held = {kind: predict_held_out(kind, data, folds, settings, say) for kind in kinds}
    areas = {kind: area(data, found, resamples=settings.resamples, seed=settings.seed) for kind, found in held.items()}
    compared = differences(data, held, resamples=settings.resamples, seed=settings.seed)
    kept = choose_head(compared) if settings.head == "all" else kinds[0]
    rows = np.arange(len(data))
    inner = grouped_k_fold(data.patients, data.labels, k=settings.inner, seed=settings.seed, sites=sites)
    for fold in inner:
        audit_leakage({"train": fold.train, "tune": fold.test}, patients=data.patients, sites=sites)
    fitted = fit_calibrated(kept, data, rows, inner, settings, lambda line: say(f"{kept}, all patients: {line}"))
    card = _write(out, settings, data, features, fitted, held[kept], folds, compared)
    _record(out, settings, data, held, areas, compared)
    return TrainedHead(out, card, areas, compared)


def _write(
    out: Path,
    settings: HeadSettings,
    data: HeadData,
    features: Sequence[SlideFeatures],
    fitted: CalibratedHead,
    held: HeldOut,
    folds: Sequence[NestedFold],
    compared: Sequence[Difference],
) -> HeadCard:
    """Write the bundle; the card comes last, so that an incomplete folder is no bundle."""
    out.mkdir(parents=True, exist_ok=True)
    (out / HEAD_CARD_NAME).unlink(missing_ok=True)
    trust = fit_head_trust(data, held, folds, seed=settings.seed)
    assert trust.out_of_domain is not None
    digest = write_domain(feature_domain(data, np.arange(len(data))), out)
    trust = trust.model_copy(update={"out_of_domain": trust.out_of_domain.model_copy(update={"sha256": digest})})
    kind = fitted.head.kind
    description = f"{settings.data_name}, {settings.folds}-fold nested cross-validation by patient"
    card = HeadCard(
        name=out.name,
        version="1.0.0",
        title=f"{', '.join(data.classes)} from patch features by {kind} (research use only)",
        head=kind,
        setting=fitted.head.setting,
        patient=settings.patient,
        patches=len(max(data.bags, key=len)) if kind in BAG_HEADS else SAMPLE_PATCHES,
        classes=data.classes,
        encoder=_encoder(features[0]),
        weights_sha256=write_head(fitted.head.model, out),
        temperature=fitted.temperature,
        trust=trust,
        training_data=(_training_data(settings, data),),
        split=_split(settings, data),
        metrics=tuple(_metrics(data, held, kind, description, settings, note=_selection(compared))),
        intended_use="Research use only. Not for decisions about a patient.",
        limits=_limits(data, kind),
        licence=settings.licence,
        made_by=f"pathology {__version__}: pathology train subtypes --head {settings.head}",
    )
    write_head_card(card, out)
    return card


def _encoder(features: SlideFeatures) -> EncoderReference:
    known = find_published(features.encoder) if features.encoder else None
    return EncoderReference(
        name=features.encoder if known is None else known.name,
        hub="" if known is None else known.hub,
        weights_sha256=features.weights_sha256,
        licence="not known" if known is None else known.licence,
        vector=features.vector,
        mpp=features.mpp,
    )


def _training_data(settings: HeadSettings, data: HeadData) -> TrainingData:
    counts = ", ".join(
        f"{name}: {len({p for p, label in zip(data.patients, data.labels, strict=True) if label == c})} patients"
        for c, name in enumerate(data.classes)
    )
    return TrainingData(
        name=settings.data_name,
        source=settings.data_source,
        licence=settings.data_licence,
        patients=len(set(data.patients)),
        images=data.slides,
        used_for=f"training, selection of settings, calibration ({counts}; {data.patches} patches)",
    )


def _split(settings: HeadSettings, data: HeadData) -> str:
    unit = "patients and hospitals" if settings.keep_sites else "patients"
    return (
        f"{settings.folds} outer folds by {unit} evaluate; {settings.inner} inner folds of each training part choose"
        f" the setting and fit the temperature (seed {settings.seed}). Audited: no {unit} in two parts, no slide under"
        f" two names. The bundle's head is fitted on all {len(set(data.patients))} patients in the same way."
    )


def _selection(compared: Sequence[Difference]) -> str:
    if not compared:
        return ""
    return "The head was chosen among several on these same patients, which makes its figures slightly optimistic."


def _metrics(
    data: HeadData, held: HeldOut, kind: str, description: str, settings: HeadSettings, note: str
) -> list[Metric]:
    report = classification_report(
        data.labels,
        held.probabilities,
        data.classes,
        patients=data.patients,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    named = [
        (
            f"mean AUC within the outer folds ({kind})",
            area(data, held, resamples=settings.resamples, seed=settings.seed),
        ),
        (f"balanced accuracy ({kind})", report.balanced_accuracy),
        (f"accuracy ({kind})", report.accuracy),
        (f"expected calibration error ({kind})", report.calibration_error),
        *((f"recall of {name} ({kind})", interval) for name, interval in report.recall.items()),
    ]
    return [interval_metric(what, found, unit="patients", data=description, note=note) for what, found in named]


def _limits(data: HeadData, kind: str) -> tuple[str, ...]:
    seen = (
        f"It sees at most {BAG_PATCHES} patches of a slide, evenly spread."
        if kind in BAG_HEADS
        else f"It sees whole slides as one vector; quantiles are of at most {SAMPLE_PATCHES} patches."
    )
    return (
        f"Distinguishes only {', '.join(data.classes)}: any other tumour is assigned to one of these unless it is"
        " flagged out of distribution.",
        seen,
        "Evaluated on slides from the same source as the training data; performance on other scanners, stains and"
        " hospitals is unknown.",
        "It needs features of the same encoder at the same scale.",
    )


def _record(
    out: Path,
    settings: HeadSettings,
    data: HeadData,
    held: dict[str, HeldOut],
    areas: dict[str, Interval],
    compared: Sequence[Difference],
) -> None:
    """Write figures without identifiers, and for the user the held-out predictions with patients."""
    record = {
        "program": f"pathology {__version__}",
        "settings": settings.model_dump(mode="json", exclude={"features", "labels"}),
        "heads": {
            kind: {"mean_auc": areas[kind].model_dump(mode="json"), "chosen": found.chosen}
            for kind, found in held.items()
        },
        "differences": [{**found.model_dump(mode="json"), "beyond_chance": found.beyond_chance} for found in compared],
        "research_use_only": True,
    }
    write_text(out / "evaluation.json", json.dumps(record, indent=1))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["patient_id", "label", "head", "fold", *data.classes])
    for kind, found in held.items():
        for patient, label, fold, row in zip(data.patients, data.labels, found.fold, found.probabilities, strict=True):
            table.writerow([patient, data.classes[label], kind, fold + 1, *(f"{p:.6f}" for p in row)])
    write_text(out / "predictions.csv", text.getvalue())
