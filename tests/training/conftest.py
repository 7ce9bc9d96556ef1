from pathlib import Path

import numpy as np
import pytest

from pathology.settings import GridSettings
from pathology.testing.array_reader import ArrayReader
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles
from pathology.tiling.store import PatchStore
from pathology.training.slide_labels import LabelledSlide, LabelledSlides
from pathology.training.slide_patches import SlidePatches


@pytest.fixture(scope="session")
def patches(tmp_path_factory):
    """Four slides of two classes, dark and bright, eight patches each."""
    folder = tmp_path_factory.mktemp("stores")
    stores, slides = [], []
    for number in range(4):
        random = np.random.default_rng(number)
        picture = np.clip(random.normal(80 + 90 * (number % 2), 25, (64, 128, 3)), 0, 255).astype(np.uint8)
        reader = ArrayReader(picture)
        grid = Grid(GridSettings(patch=32, mpp=0.5, stride=32, block=256), reader.dimensions, 0.5)
        plan = plan_tiles(grid, TissueShare(np.ones((2, 2), bool), reader.dimensions))
        path = folder / f"{number}.zarr"
        store = PatchStore.create(path, plan, "decoded", slide=reader.path, fingerprint=str(number), description={})
        blocks = BlockReader(reader, grid)
        for k in range(len(plan.blocks)):
            store.write_block(k, blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]))
        store.finish()
        stores.append(path)
        slides.append(LabelledSlide(f"s{number}", Path(f"{number}.svs"), f"p{number}", number % 2))
    keep = [np.ones(8, bool) for _ in stores]
    keep[0][2:] = False
    return SlidePatches(LabelledSlides(("dark", "bright"), tuple(slides)), tuple(stores), tuple(keep))
