"""Score constructed slides of real osteosarcoma tiles and other slides, and compare the results with ground truth.

    python scripts/measure_constructed_slides.py --data DIR --out FOLDER [--slides 2] [--model osteosarcoma-viability]

DIR contains ``osteosarcoma/`` and ``slides/``.  Writes FOLDER/measured.json: class and necrosis fractions against
ground truth, the heatmap's patches against the map, calibration, and the slides on which the model abstained.  The
shipped model was trained on these tiles: accuracy here shows that the pipeline is correct, not that the model is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pathology.errors import PathologyError
from pathology.scoring.batch import score
from pathology.stats.classification import expected_calibration_error
from pathology.stats.intervals import wilson
from pathology.testing.constructed_slides import construct_cohort
from pathology.training.tile_classifier.osteosarcoma import read_osteosarcoma


def run(arguments: argparse.Namespace) -> None:
    """Construct, score, compare."""
    tiles = read_osteosarcoma(arguments.data / "osteosarcoma")
    folder = arguments.out / "slides"
    truths = {
        slide.slide_id: slide
        for slide in construct_cohort(folder, tiles, slides_per_patient=arguments.slides, rows=4, columns=4)
    }
    foreign = arguments.data / "slides" / "CMU-1-Small-Region.svs"
    batch = score([folder, foreign], arguments.model, arguments.out / "results")
    rows: list[dict[str, Any]] = []
    right = total = 0
    labels, probabilities = [], []
    for result in batch.slides:
        row: dict[str, Any] = {
            "slide": result.slide_id,
            "answer": result.answer,
            "out_of_domain": result.out_of_domain,
            "domain_score": result.domain_score,
            "error": result.error,
        }
        truth = truths.get(result.slide_id)
        if truth is not None and result.has_maps:
            shares = {finding.name: finding.share for finding in result.classes}
            true = truth.shares()
            tumour = [name for name in true if name != "non-tumour"]

            def necrosis(of: dict[str, float], names: list[str] = tumour) -> float | None:
                whole = sum(of[name] for name in names)
                return of["non-viable tumour"] / whole if whole > 0 else None

            row |= {
                "shares": shares,
                "true_shares": true,
                "necrosis": necrosis(shares),
                "true_necrosis": necrosis(true),
            }
            group = zarr.open_group(batch.out / "slides" / result.slide_id / "predictions.zarr", mode="r")
            p, coords = np.asarray(group["probabilities"][...]), np.asarray(group["coords"][...])
            middle = coords + float(group.attrs["patch_extent"]) / 2
            there = truth.class_at(middle[:, 0], middle[:, 1])
            known = (there >= 0) & ~np.isnan(p).any(axis=1)
            right += int((p[known].argmax(axis=1) == there[known]).sum())
            total += int(known.sum())
            labels.append(there[known])
            probabilities.append(p[known])
        rows.append(row)
    agreement = wilson(right, total)
    differences = [
        abs(r["shares"][name] - r["true_shares"][name]) for r in rows if "shares" in r for name in r["shares"]
    ]
    own = [r for r in rows if r["slide"] in truths]
    measured = {
        "patches_whose_predicted_class_is_the_maps": {
            "value": agreement.value,
            "interval": [agreement.low, agreement.high],
            "n": total,
        },
        "mean_absolute_difference_of_shares": float(np.mean(differences)),
        "expected_calibration_error_of_patches": expected_calibration_error(
            np.concatenate(labels), np.concatenate(probabilities)
        ),
        "called_outside": {"constructed": sum(bool(r["out_of_domain"]) for r in own), "of": len(own)},
        "slides": rows,
    }
    (arguments.out / "measured.json").write_text(json.dumps(measured, indent=1), encoding="utf-8")
    print(json.dumps({key: value for key, value in measured.items() if key != "slides"}, indent=1))
    for r in rows:
        print(f"{r['slide']}: {r['answer'] or r['error']} (domain score {r['domain_score']})")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with osteosarcoma/ and slides/")
    parser.add_argument("--out", type=Path, required=True, help="folder for slides, results and measured.json")
    parser.add_argument("--slides", type=int, default=2, help="constructed slides per case")
    parser.add_argument("--model", default="osteosarcoma-viability", help="a bundle with these classes")
    try:
        run(parser.parse_args())
    except PathologyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
