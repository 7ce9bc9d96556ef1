"""Ten slides that cannot be scored among forty that can: one run, forty scored, ten reasons."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["BatchOutcome", "torture_batch"]

SOUND, POISONED = 40, 10


@dataclass(frozen=True)
class BatchOutcome:
    """What became of the batch."""

    slides: int
    scored: int
    reasons: int


def torture_batch(folder: Path) -> BatchOutcome:
    """Score forty sound slides and ten poisons with one command.

    Parameters
    ----------
    folder
        For slides, model and results; empty.
    """
    from pathology.scoring.batch import score
    from pathology.testing import synthetic_slides
    from pathology.testing.random_bundle import write_random_bundle
    from pathology.testing.synthetic_tissue import TissuePicture

    slides = folder / "slides"
    slides.mkdir(parents=True)
    for number in range(SOUND):
        synthetic_slides.write_svs(
            slides / f"sound-{number:02d}.svs",
            TissuePicture(300, 300, seed=number, tissue=0.7),
            factors=(1,),
            mpp=0.5,
            objective_power=20,
        )
    _poison(slides)
    bundle = write_random_bundle(folder / "example")
    results = list(score(slides, bundle, folder / "out", engine="torch", workers=1))
    scored = sum(result.status != "failed" for result in results)
    reasons = sum(result.status == "failed" and bool(result.error) for result in results)
    return BatchOutcome(len(results), scored, reasons)


_SIDES: Final = (2**24).to_bytes(4, "big") + (8).to_bytes(4, "big")
_WIDE_PNG: Final = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + _SIDES + b"\x08\x02\0\0\0" * 9


def _poison(slides: Path) -> None:
    sound = (slides / "sound-00.svs").read_bytes()
    (slides / "p0.svs").write_bytes(b"")
    (slides / "p1.svs").write_bytes(sound[:2000])
    (slides / "p2.svs").write_bytes(bytes(len(sound)))
    (slides / "p3.tif").write_text("a text, not a slide")
    os.mkfifo(slides / "p4.svs")
    (slides / "p5.svs").symlink_to(slides / "gone.svs")
    # Wide as nothing that was scanned: 16,777,216 x 8 pixels.
    (slides / "p6.png").write_bytes(_WIDE_PNG)
    (slides / "p7.dcm").write_bytes(bytes(128) + b"DICM" + b"\x08\x00\x08\x00CQ\xff\xff" * 50)
    (slides / "p8.svs").write_bytes(sound[:8] + os.urandom(4096))
    (slides / "p9.jpg").write_bytes(b"\xff\xd8\xff" + bytes(3000))
