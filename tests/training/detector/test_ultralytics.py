"""Ultralytics detectors through our own calls."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import write_state_dict
from pathology.cli.app import app
from pathology.inference.engines.base import BOXES_PER_PATCH
from pathology.inference.engines.select import make_engine
from pathology.outputs.results.detection_file import read_detections
from pathology.testing.random_detector import write_random_detector
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture
from pathology.training.detector.data import BOX, CROP, Background, MitosisData

# Found, not imported: importing it changes other libraries, which is what the last test is about.
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("needs the extra: ultralytics", allow_module_level=True)

from pathology.networks.ultralytics_detectors import ultralytics_detector
from pathology.training.detector.ultralytics import train_ultralytics, write_yolo_folder


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


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("definition", "width"), [("yolo26n.yaml", None), ("yolov4-csp", 0.125)])
def test_training_gives_plain_tensors_that_a_bundle_scores_with(definition, width, tmp_path):
    path = write_yolo_folder(drawn_data(), tmp_path / "data")
    state, seconds = train_ultralytics(definition, path, tmp_path / "work", width=width, epochs=1, batch=4)
    assert seconds > 0
    assert not list((tmp_path / "work").rglob("*.pt")), "no pickle is left behind"
    network = ultralytics_detector(1, definition=definition, width=width)
    assert state.keys() == network.state_dict().keys()
    options = {"definition": definition} | ({} if width is None else {"width": width})
    folder = write_random_detector(
        tmp_path / "trained",
        architecture="ultralytics",
        architecture_options=options,
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        weights_sha256=write_state_dict(state, tmp_path / "weights.safetensors"),
    )
    (tmp_path / "weights.safetensors").replace(folder / "weights.safetensors")
    assert not [check for check in verify_bundle(folder) if check.error]
    windows = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    engine = make_engine(load_bundle(folder), kind="torch", device="cpu", threads=1)
    boxes = engine.predict(windows)
    assert boxes.shape == (2, 5 * BOXES_PER_PATCH)
    assert np.isfinite(boxes).all()


def test_a_bundle_scores_a_slide_as_any_other(tmp_path):
    torch.manual_seed(0)
    network = ultralytics_detector(1, definition="yolo26n.yaml").eval()
    folder = write_random_detector(
        tmp_path / "ultralytics-random",
        architecture="ultralytics",
        architecture_options={"definition": "yolo26n.yaml"},
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        weights_sha256=write_state_dict(network.state_dict(), tmp_path / "weights.safetensors"),
        # Untrained, it is sure of nothing; what is asked is whether its boxes arrive.
        detection={"threshold": 1e-7, "floor": 1e-9},
    )
    (tmp_path / "weights.safetensors").replace(folder / "weights.safetensors")
    slide = write_svs(tmp_path / "one.svs", TissuePicture(300, 260, seed=3, tissue=0.8), factors=(1,), mpp=0.25)
    command = ["score", str(slide), "--model", str(folder), "--out", str(tmp_path / "out"), "--workers", "1"]
    done = CliRunner().invoke(app, [*command, "--engine", "torch", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    scored = tmp_path / "out" / "slides" / "one"
    found = read_detections(scored)
    assert found.header.model.startswith("ultralytics-random")
    assert len(found) > 10
    centres = found.found.centres
    assert (centres >= 0).all()
    assert (centres < (300, 260)).all()
    assert "Mitotic count, not reviewed" in (scored / "report.html").read_text(encoding="utf-8")
    record = json.loads((scored / "slide.json").read_text(encoding="utf-8"))
    assert record["engine"].startswith("torch")
    assert record["mitoses"]["candidates"] == len(found)


def test_the_library_leaves_others_as_they_were():
    before = Image.open, Image.MAX_IMAGE_PIXELS, torch.save
    ultralytics_detector(1, definition="yolo26n.yaml")
    assert (Image.open, Image.MAX_IMAGE_PIXELS, torch.save) == before
    assert Image.open.__module__ == "PIL.Image"
    assert torch.save.__module__ == "torch.serialization"
