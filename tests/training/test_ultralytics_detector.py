"""Ultralytics detectors through our own calls."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from pathology.inference.detection import WindowDetector
from pathology.training.detection_data import BOX, CROP, Background, MitosisData

# Found, not imported: importing it changes other libraries, which is what the last test is about.
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("needs the extra: ultralytics", allow_module_level=True)

from pathology.training.ultralytics_detector import UltralyticsNetwork, train_ultralytics, write_yolo_folder


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))


def drawn_data(count=12):
    y, x = np.mgrid[:CROP, :CROP] - CROP / 2
    crops = np.full((count, CROP, CROP, 3), (215, 150, 195), np.uint8)
    crops[:, np.hypot(x, y) < 13] = (60, 20, 90)
    objects = np.full((count, 6, 3), -1, np.float32)
    objects[:, 0] = (CROP / 2, CROP / 2, 1)
    parts = np.array(["train"] * (count - 4) + ["validation"] * 4)
    tissue = np.full((300, 300, 3), (215, 150, 195), np.uint8)
    background = Background("drawn", tissue, 0.25, "train", np.empty((0, 2), np.float32))
    slides = np.array([f"drawn/{i}" for i in range(count)])
    return MitosisData(crops, objects, slides, parts, np.ones(count, bool), (background,))


def test_folder_of_images(tmp_path):
    path = write_yolo_folder(drawn_data(), tmp_path / "data")
    images = sorted((path.parent / "images" / "train").iterdir())
    assert [i.name for i in images if i.name.startswith("background")] == [f"background-{i:05d}.png" for i in range(4)]
    with Image.open(images[0]) as first:
        assert first.size == (CROP, CROP)
    label = (path.parent / "labels" / "train" / "00000.txt").read_text().split()
    assert [float(v) for v in label] == pytest.approx([0, 0.5, 0.5, BOX / CROP, BOX / CROP], abs=1e-5)
    assert len(list((path.parent / "images" / "val").iterdir())) == 4


def test_boxes_come_as_from_our_own_detectors():
    torch.manual_seed(0)
    network = UltralyticsNetwork("yolo11n.yaml").eval()
    again = UltralyticsNetwork("yolo11n.yaml", network.model.state_dict()).eval()
    windows = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    first, second = (WindowDetector(n, device=torch.device("cpu"), floor=0.0).detect(windows) for n in (network, again))
    np.testing.assert_array_equal(first, second)
    assert (first[:, 0, 2:4] > first[:, 0, :2]).all(), "left and top before right and bottom"
    assert (np.diff(first[..., 4], axis=1) <= 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_training_gives_plain_tensors(tmp_path):
    path = write_yolo_folder(drawn_data(), tmp_path / "data")
    state, seconds = train_ultralytics("yolo11n.yaml", path, tmp_path / "work", epochs=1, batch=4)
    assert seconds > 0
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    fresh = UltralyticsNetwork("yolo11n.yaml").model.state_dict()
    assert state.keys() == fresh.keys()
    UltralyticsNetwork("yolo11n.yaml", state)
    assert not list((tmp_path / "work").rglob("*.pt")), "no pickle is left behind"


def test_the_library_leaves_others_as_they_were():
    before = Image.open, Image.MAX_IMAGE_PIXELS, torch.save
    UltralyticsNetwork("yolo11n.yaml")
    assert (Image.open, Image.MAX_IMAGE_PIXELS, torch.save) == before
    assert Image.open.__module__ == "PIL.Image"
    assert torch.save.__module__ == "torch.serialization"
