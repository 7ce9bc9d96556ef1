import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from pathology.training.classifier.patch_augmentation import change_patch
from pathology.training.classifier.recipe import AugmentationName


@pytest.fixture(scope="module")
def patch():
    random = np.random.default_rng(0)
    coarse = random.integers(90, 230, (12, 12, 3))
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)


@pytest.mark.parametrize("name", [name for name in get_args(AugmentationName) if name != "none"])
def test_the_seed_alone_decides(patch, name):
    first = change_patch(patch, name, 5)
    change_patch(patch, name, 6)
    np.testing.assert_array_equal(first, change_patch(patch, name, 5))
    assert any((change_patch(patch, name, seed) != first).any() for seed in range(6, 12))
    assert first.shape == patch.shape
    assert first.dtype == np.uint8


def test_none_changes_nothing(patch):
    assert change_patch(patch, "none", 1) is patch


def test_foersch_cuts_holes(patch):
    holes = [(change_patch(patch, "foersch", seed) == 0).all(axis=2).mean() for seed in range(10)]
    # 60 to 80 holes of 64 px in 9,216: they overlap, and cover 34 to 43 % when thrown at random.
    assert all(0.25 < share < 0.5 for share in holes)


def orientations(patch, name, seeds):
    """Which of the eight orientations each changed patch resembles most."""
    plain = patch.astype(float)
    turned = [np.rot90(m, k).mean(axis=2).ravel() for m in (plain, plain[:, ::-1]) for k in range(4)]
    changed = [change_patch(patch, name, seed).mean(axis=2).ravel() for seed in range(seeds)]
    return {int(np.argmax([np.corrcoef(c, t)[0, 1] for t in turned])) for c in changed}


def test_turns_and_colour_reach_all_eight_orientations(patch):
    assert orientations(patch, "turns-and-colour", 80) == set(range(8))


def test_deeppath_flips_sideways_and_never_turns(patch):
    assert orientations(patch, "deeppath", 30) == {0, 4}


def test_the_library_asks_nobody_for_a_newer_version():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('it asked the network')\n"
        "socket.socket.connect = refuse\n"
        "import numpy as np\n"
        "from pathology.training.classifier.patch_augmentation import change_patch\n"
        "change_patch(np.zeros((96, 96, 3), np.uint8), 'foersch', 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0
