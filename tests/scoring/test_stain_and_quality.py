"""A card that asks for a stain normalisation gets it; quality limits of the settings hold."""

import json

import numpy as np
import zarr
from PIL import Image

from pathology.bundle.catalogue import load_bundle
from pathology.scoring.batch import score
from pathology.scoring.prepare import prepare
from pathology.settings import GridSettings, QualitySettings, ScoreSettings, TissueSettings
from pathology.slide.open import open_reader
from pathology.slide.tissue.quality import ARTEFACTS
from pathology.testing.random_bundle import reference_probabilities, write_random_bundle
from pathology.testing.synthetic_slides import TissuePicture, write_svs
from pathology.tiling.blocks import BlockReader


def test_patches_are_normalised_as_the_card_says_and_quality_is_looked_at(tmp_path):
    picture = TissuePicture(1100, 900, seed=0, tissue=0.6)
    slide = write_svs(tmp_path / "a.svs", picture, factors=(1,))
    folder = write_random_bundle(tmp_path / "stained", patch=64, stain="reinhard")
    bundle = load_bundle(folder)
    quality = QualitySettings(**dict.fromkeys((f"max_{name}" for name in ARTEFACTS), 0.4))
    settings = ScoreSettings(quality=quality, precision="exact", block=256)
    batch = score([slide], folder, tmp_path / "out", settings=settings, engine="torch", workers=1)
    (result,) = batch
    assert result.status == "scored", result.error
    group = zarr.open_group(tmp_path / "out" / "slides" / "a" / "predictions.zarr", mode="r")
    with open_reader(slide) as reader:
        prepared = prepare(
            reader,
            option_mpp=None,
            manifest_mpp=None,
            tissue=TissueSettings(),
            quality=quality,
            grid=lambda _: GridSettings(patch=64, mpp=1.0, stride=64, block=256),
            stain="reinhard",
        )
        plan = prepared.plan
        np.testing.assert_array_equal(group["coords"][:], plan.coords)
        plain = np.concatenate(
            [
                BlockReader(reader, plan.grid).read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]).pixels
                for k in range(len(plan.blocks))
            ]
        )
    expected = reference_probabilities(bundle, prepared.stain.apply(plain))
    assert np.abs(reference_probabilities(bundle, plain) - expected).mean() > 0.002
    np.testing.assert_allclose(group["probabilities"][:], expected, atol=1e-4)
    record = json.loads((tmp_path / "out" / "slides" / "a" / "slide.json").read_text())
    assert record["extra"]["stain"]["slide"]["method"] == "reinhard"
    with Image.open(tmp_path / "out" / "slides" / "a" / "quality.png") as shown:
        shown.verify()
    assert batch.tiles["a"].needed > 0
