"""Fit and measure the domain limit of ``models/mitosis-yolov4``, without training it again.

    python scripts/fit_mitosis_domain.py --data DIR [--bundle models/mitosis-yolov4] [--crops 12] [--shifted 4]

DIR contains ``mitosis/``.  The domain is fitted on crops of the training slides and on the training part of the field
without mitoses, the limit on the validation slides.  On the held-out slides, recall and the fraction of slides beyond
the limit are measured on crops as they are, blurred, sharpened and with shifted colours.  Writes ``domain.safetensors``
and, into the card, the rule and the metrics; ``domain.json`` beside them holds both curves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pathology.bundle.card import CARD_NAME, Metric, Trust, write_card
from pathology.bundle.catalogue import Bundle, load_bundle
from pathology.bundle.domain import write_domain
from pathology.errors import PathologyError
from pathology.inference.engines.detector import COLOURLESS, DetectorNetwork, WindowDetector
from pathology.networks.stem import StemFeatures
from pathology.stats.intervals import wilson
from pathology.stats.out_of_distribution import FeatureDomain, fit_domain, fit_limit, slide_score
from pathology.training.detector.data import CROP, MPP, MitosisData, read_folder
from pathology.training.detector.fit import MATCH_PIXELS

FALSE_ALARM = 0.05
"""Set before any score was seen."""

Pixels = NDArray[np.uint8]


def blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    """Return a Gaussian blur, its standard deviation in pixels."""
    return lambda crop: np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), np.uint8)


def sharpened(amount: float) -> Callable[[Pixels], Pixels]:
    """Return an unsharp mask with a radius of 1.5 pixels."""

    def apply(crop: Pixels) -> Pixels:
        values = crop.astype(np.float32)
        return np.clip(values + amount * (values - cv2.GaussianBlur(values, (0, 0), 1.5)), 0, 255).astype(np.uint8)

    return apply


def reddened(levels: int) -> Callable[[Pixels], Pixels]:
    """Return a shift of red by some grey levels up and of blue by as many down."""
    return lambda crop: np.clip(crop.astype(np.int16) + np.array([levels, 0, -levels]), 0, 255).astype(np.uint8)


SHIFTS: dict[str, Callable[[Pixels], Pixels]] = {
    "unchanged": lambda crop: crop,
    **{f"blur, sigma {s:g} px": blurred(s) for s in (1, 2, 3)},
    **{f"sharpening, amount {a:g}": sharpened(a) for a in (1, 2, 4)},
    **{f"colour, red {n:+d}, blue {-n:+d}": reddened(n) for n in (10, 20, 40)},
    **{f"colour, red {n:+d}, blue {-n:+d}": reddened(n) for n in (-10, -20, -40)},
}
"""What is done to the held-out crops."""


class Stem:
    """The first layers of the detector, in fp32."""

    def __init__(self, bundle: Bundle) -> None:
        self._stem = StemFeatures(bundle.network()).eval()

    def __call__(self, crops: Pixels) -> NDArray[np.float64]:
        """Return ``(N, 2 C)`` features of ``(N, 128, 128, 3)`` crops."""
        found = []
        with torch.inference_mode():
            for start in range(0, len(crops), 16):
                part = torch.from_numpy(np.ascontiguousarray(crops[start : start + 16]))
                found.append(self._stem(part.permute(0, 3, 1, 2).float() / 255).double().numpy())
        return np.concatenate(found)


def some_of_each(data: MitosisData, most: int) -> NDArray[np.intp]:
    """Return the rows of at most so many crops of each slide, evenly spread over them."""
    rows = []
    for slide in sorted(set(data.slides.tolist())):
        of_slide = np.flatnonzero(data.slides == slide)
        rows.append(of_slide[np.linspace(0, len(of_slide) - 1, min(most, len(of_slide))).round().astype(int)])
    return np.concatenate(rows)


def tissue_squares(pixels: Pixels) -> Pixels:
    """Cut an image into squares as large as a crop, without those of glass."""
    rows, columns = pixels.shape[0] // CROP, pixels.shape[1] // CROP
    squares = pixels[: rows * CROP, : columns * CROP].reshape(rows, CROP, columns, CROP, 3).swapaxes(1, 2)
    squares = squares.reshape(-1, CROP, CROP, 3)
    chroma = (squares.max(axis=-1) - squares.min(axis=-1)).mean(axis=(1, 2)) / 255
    return squares[chroma >= COLOURLESS]


def by_slide(domain: FeatureDomain, features: NDArray[np.float64], slides: NDArray[np.str_]) -> dict[str, float]:
    """Return the score of every slide."""
    scores = domain.scores(features)
    return {slide: slide_score(scores[slides == slide]) for slide in sorted(set(slides.tolist()))}


def recalled(detector: WindowDetector, crops: Pixels, threshold: float) -> NDArray[np.bool_]:
    """Return for each crop whether the mitosis at its centre is counted."""
    boxes = detector.detect(crops)
    centres = (boxes[..., :2] + boxes[..., 2:4]) / 2
    near = np.hypot(*np.moveaxis(centres - CROP / 2, -1, 0)) <= MATCH_PIXELS
    result: NDArray[np.bool_] = (near & (boxes[..., 4] >= threshold)).any(axis=1)
    return result


def measure(
    bundle: Bundle, stem: Stem, domain: FeatureDomain, limit: float, test: MitosisData, most: int
) -> dict[str, Any]:
    """Return recall and the fraction of slides beyond the limit under every shift, and recall by source."""
    card = bundle.card
    assert card.detection is not None
    network = bundle.network()
    assert isinstance(network, DetectorNetwork)
    platt = (float(card.calibration["slope"]), float(card.calibration["intercept"]))
    detector = WindowDetector(network, device=torch.device("cpu"), floor=card.detection.floor, calibration=platt)
    rows = some_of_each(test, most)
    crops, slides = test.crops[rows], test.slides[rows]
    curves = []
    for name, shift in SHIFTS.items():
        shifted = np.stack([shift(crop) for crop in crops])
        hits = recalled(detector, shifted, card.detection.threshold)
        scores = by_slide(domain, stem(shifted), slides)
        beyond = {slide for slide, score in scores.items() if score > limit}
        inside = np.array([slide not in beyond for slide in slides.tolist()])
        curves.append(
            {
                "shift": name,
                "found": int(hits.sum()),
                "mitoses": len(hits),
                "beyond": len(beyond),
                "slides": len(scores),
                "median_score": round(float(np.median(list(scores.values()))), 3),
                "found_inside": int(hits[inside].sum()),
                "mitoses_inside": int(inside.sum()),
            }
        )
        print(curves[-1], flush=True)
    by_source = recall_by_source(detector, test, card.detection.threshold)
    return {"limit": limit, "curves": curves, "recall_by_source": by_source}


def recall_by_source(detector: WindowDetector, test: MitosisData, threshold: float) -> dict[str, list[int]]:
    """Return mitoses counted and mitoses of each data set, of all held-out crops."""
    hits = recalled(detector, test.crops, threshold)
    sources = np.array([slide.split("/")[0] for slide in test.slides.tolist()])
    return {s: [int(hits[sources == s].sum()), int((sources == s).sum())] for s in sorted(set(sources.tolist()))}


def proportion(metric: str, part: int, whole: int, unit: str, data: str, note: str = "") -> Metric:
    """Return a proportion with Wilson's interval."""
    found = wilson(part, whole)
    interval = (round(found.low, 4), round(found.high, 4))
    return Metric(
        metric=metric,
        value=round(found.value, 4),
        interval=interval,
        method=found.method,
        n=whole,
        unit=unit,
        data=data,
        note=note,
    )


def metrics_of(record: dict[str, Any], most: int) -> list[Metric]:
    """Return the curves and the recall by source as metrics of the card."""
    whole = "AMi-Br, held-out slides, the mitosis at the centre of every crop"
    found = [
        proportion(f"recall, crops, {source}", hits, n, "mitoses", whole, "interval over mitoses, not over slides")
        for source, (hits, n) in record["recall_by_source"].items()
    ]
    data = f"AMi-Br, held-out slides, at most {most} crops of each"
    for point in record["curves"]:
        inside = f"on slides within the limit {point['found_inside']} of {point['mitoses_inside']}"
        shift = point["shift"]
        found += [
            proportion(f"recall under shift: {shift}", point["found"], point["mitoses"], "mitoses", data, inside),
            proportion(
                f"slides beyond the domain limit: {shift}",
                point["beyond"],
                point["slides"],
                "slides",
                data,
                f"median score {point['median_score']:.2f}, limit {record['limit']:.2f}",
            ),
        ]
    return found


def run(arguments: argparse.Namespace) -> None:
    """Fit, measure, and update the bundle."""
    bundle = load_bundle(arguments.bundle)
    whole = read_folder(arguments.data / "mitosis")
    stem = Stem(bundle)
    train, validation = whole.of("train"), whole.of("validation")
    crops = train.crops[some_of_each(train, arguments.crops)]
    fields = [tissue_squares(b.pixels) for b in train.backgrounds if b.mpp == MPP]
    features = [stem(part) for part in (crops, np.concatenate(fields))]
    domain = fit_domain(np.concatenate(features), np.repeat([0, 1], [len(part) for part in features]))
    rows = some_of_each(validation, arguments.crops)
    scores = by_slide(domain, stem(validation.crops[rows]), validation.slides[rows])
    rule = fit_limit(
        np.array(list(scores.values())),
        features=features[0].shape[1],
        false_alarm=FALSE_ALARM,
        layer="stem",
        cell=CROP,
        data=f"crops of the {len(scores)} validation slides, at most {arguments.crops} of each, every one around a"
        " mitosis; the rate holds for crops of further slides from the same sources, not for whole slides",
    )
    assert rule.limit is not None
    record = measure(bundle, stem, domain, rule.limit, whole.of("test"), arguments.shifted)
    rule = rule.model_copy(update={"sha256": write_domain(domain, bundle.directory)})
    measured = metrics_of(record, arguments.shifted)
    card = bundle.card
    kept = [m for m in card.metrics if m.metric not in {new.metric for new in measured}]
    limits = [text for text in card.limits if not text.startswith("It has no out-of-distribution check")]
    limits.append(
        "Its domain limit compares stain, sharpness and texture with the training data, and does not know what tissue"
        " it sees: a slide within it can still be of another tumour, on which recall may be lower."
    )
    limits = list(dict.fromkeys(limits))
    major, minor, _ = card.version.split(".")
    version = card.version if card.trust is not None else f"{major}.{int(minor) + 1}.0"
    changes = {"trust": Trust(out_of_domain=rule), "metrics": (*kept, *measured), "limits": tuple(limits)}
    write_card(card.model_copy(update=changes | {"version": version}), bundle.directory / CARD_NAME)
    (bundle.directory / "domain.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mitosis/")
    parser.add_argument("--bundle", type=Path, default=Path("models/mitosis-yolov4"), help="the bundle's folder")
    parser.add_argument("--crops", type=int, default=12, help="most crops of a slide for domain and limit")
    parser.add_argument("--shifted", type=int, default=4, help="most crops of a held-out slide for the curves")
    try:
        run(parser.parse_args())
    except PathologyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
