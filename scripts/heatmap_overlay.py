"""Plot a slide's heatmap over the slide with the Python API: score, open the results, get arrays and images.

python scripts/heatmap_overlay.py SLIDE MODEL OVERLAY.png [--class NAME] [--width PIXELS] [--smooth UM]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pathology import open_results, score


def main() -> None:
    """Score one slide and write its overlay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, help="a slide file, or the folder of a DICOM series")
    parser.add_argument("model", help="name or folder of a model bundle")
    parser.add_argument("overlay", type=Path, help="output image (.png)")
    parser.add_argument(
        "--class", dest="class_name", help="show only this class; default: the most probable class at each position"
    )
    parser.add_argument("--width", type=int, default=1600, help="longer side of the slide in the image, in pixels")
    parser.add_argument("--smooth", type=float, help="smooth the map with a Gaussian of this many µm")
    parser.add_argument("--mpp", type=float, help="µm per pixel of the slide, if the file does not state it")
    parser.add_argument("--results", type=Path, help="keep the results in this folder; default: discard them")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="pathology-") as scratch:
        out = given.results or Path(scratch)
        (result,) = score(given.slide, given.model, out, mpp=given.mpp)
        if result.status == "failed":
            raise SystemExit(f"{given.slide}: {result.error}")
        slide = open_results(out)[result.slide_id]
        picture = slide.overlay(given.class_name, longest=given.width, smooth_um=given.smooth)
        Image.fromarray(picture).save(given.overlay)

        name = given.class_name or str(result.most_probable_class)
        probability = slide.heatmap(name)  # (rows, columns), NaN where no tissue was scored
        row, column = np.unravel_index(np.nanargmax(probability), probability.shape)
        x, y, *_ = slide.heatmaps.bounds(int(row), int(column))
        print(
            f"{given.overlay}: {result.summary}. The highest probability of {name} is "
            f"{probability[row, column]:.2f}, at level-0 pixel ({x:.0f}, {y:.0f}). Research use only."
        )


if __name__ == "__main__":
    main()
