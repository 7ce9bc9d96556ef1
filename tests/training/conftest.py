from pathlib import Path

import numpy as np
import pytest

from pathology.evaluation.labels import LabelledSlide, LabelledSlides
from pathology.settings import GridSettings
from pathology.testing.array_reader import ArrayReader
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles
from pathology.tiling.store import PatchStore
from pathology.training.classifier.patches import SlidePatches


def _four_slides(folder: Path, *, side: int, across: int, down: int) -> SlidePatches:
    """Four slides of two classes, dark and bright, ``across`` times ``down`` patches each."""
    stores, slides = [], []
    for number in range(4):
        random = np.random.default_rng(number)
        size = (down * side, across * side, 3)
        picture = np.clip(random.normal(80 + 90 * (number % 2), 25, size), 0, 255).astype(np.uint8)
        reader = ArrayReader(picture)
        grid = Grid(GridSettings(patch=side, mpp=0.5, stride=side, block=max(256, side)), reader.dimensions, 0.5)
        plan = plan_tiles(grid, TissueShare(np.ones((2, 2), bool), reader.dimensions))
        path = folder / f"{number}.zarr"
        store = PatchStore.create(path, plan, "decoded", slide=reader.path, fingerprint=str(number), description={})
        blocks = BlockReader(reader, grid)
        for k in range(len(plan.blocks)):
            store.write_block(k, blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]))
        store.finish()
        stores.append(path)
        slides.append(LabelledSlide(f"s{number}", Path(f"{number}.svs"), f"p{number}", number % 2))
    keep = [np.ones(across * down, bool) for _ in stores]
    return SlidePatches(LabelledSlides(("dark", "bright"), tuple(slides)), tuple(stores), tuple(keep))


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> SlidePatches:
    """Eight patches of 32 px a slide, of which the first slide uses two."""
    found = _four_slides(tmp_path_factory.mktemp("stores"), side=32, across=4, down=2)
    found.keep[0][2:] = False
    return found


@pytest.fixture(scope="session")
def large_patches(tmp_path_factory: pytest.TempPathFactory) -> SlidePatches:
    """Two patches of 299 px a slide."""
    return _four_slides(tmp_path_factory.mktemp("large-stores"), side=299, across=2, down=1)
