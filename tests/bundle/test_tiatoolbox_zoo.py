"""TIAToolbox's zoo as a source of models, with weights made here."""

import hashlib
import json
import logging
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.tiatoolbox_zoo import zoo_models
from pathology.bundle.verify import verify_bundle
from pathology.cli.app import app
from pathology.errors import BundleError, MissingDependencyError, UnknownModelError, UnsafeWeightsError
from pathology.networks.registry import build_network
from pathology.testing.random_bundle import reference_probabilities
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


def quietly(module):
    """Import a module of tiatoolbox; importing it and its libraries warns and logs, which is nothing of ours."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip(module)
        logging.captureWarnings(False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    return found


@pytest.fixture
def home(tmp_path, monkeypatch):
    """TIAToolbox's own cache, empty; ours too; the hub out of reach."""
    tiatoolbox = quietly("tiatoolbox")
    monkeypatch.setitem(tiatoolbox.rcParam, "TIATOOLBOX_HOME", tmp_path / "home")
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home"


def put(home, name, *, classes, backbone):
    """Write random weights where TIAToolbox keeps fetched ones."""
    torch.manual_seed(0)
    network = build_network("pooled-backbone", classes, backbone=backbone).eval()
    with torch.no_grad():  # so that the classes are told apart
        network.classifier.weight.normal_(0, 2)
    path = home / "models" / f"{name}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


def test_every_patch_classifier_of_the_zoo_is_known(home):
    registry = quietly("tiatoolbox").rcParam["pretrained_model_info"]
    patches = {name for name, e in registry.items() if e["ioconfig"]["class"] == "io_config.IOPatchPredictorConfig"}
    assert len(patches) >= 41
    assert set(zoo_models()) == patches


def test_a_checkpoint_becomes_a_bundle_once(home):
    path = put(home, "densenet121-kather100k", classes=9, backbone="densenet121")
    bundle = load_bundle("tiatoolbox:densenet121-kather100k")
    card = bundle.card
    assert (card.name, card.mpp, card.patch, card.stride) == ("tiatoolbox-densenet121-kather100k", 0.5, 224, None)
    assert len(card.classes) == 9
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card.made_by
    assert hashlib.sha256(bundle.weights.read_bytes()).hexdigest() == card.weights_sha256
    assert verify_bundle("tiatoolbox:densenet121-kather100k")[-1].error is None
    state = bundle.network().state_dict()
    for name, tensor in torch.load(path, weights_only=True).items():
        assert torch.equal(state[name], tensor)
    path.unlink()
    assert load_bundle("tiatoolbox:densenet121-kather100k").card == card


@pytest.mark.parametrize(
    ("name", "backbone", "patch", "mpp"),
    [("resnet18-pcam", "resnet18", 96, 1.0), ("resnet34-idars-msi", "resnet34", 224, 1.0)],
)
def test_probabilities_are_tiatoolboxes_own(home, name, backbone, patch, mpp):
    path = put(home, name, classes=2, backbone=backbone)
    bundle = load_bundle(f"tiatoolbox:{name}")
    assert (bundle.card.patch, bundle.card.mpp) == (patch, mpp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, _ = quietly("tiatoolbox.models.architecture").get_pretrained_model(name, pretrained_weights=path)
    patches = np.random.default_rng(0).integers(0, 256, (3, patch, patch, 3), dtype=np.uint8)
    prepared = torch.stack([theirs.preproc_func(one) for one in patches])
    expected = theirs.infer_batch(theirs, prepared, device="cpu")
    np.testing.assert_allclose(reference_probabilities(bundle, patches), expected, atol=2e-5)


def test_kather_classes_stand_in_tiatoolboxes_order(home, tmp_path):
    put(home, "alexnet-kather100k", classes=9, backbone="alexnet")
    classes = load_bundle("tiatoolbox:alexnet-kather100k").card.classes
    ours = dict(zip(("BACK", "NORM", "DEB", "TUM", "ADI", "MUC", "MUS", "STR", "LYM"), classes, strict=True))
    for short in ours:
        (tmp_path / "kather" / short).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "kather" / short / "one.tif")
    theirs = quietly("tiatoolbox.models.dataset.info").KatherPatchDataset(tmp_path / "kather").label_names
    assert [ours[theirs[index]] for index in range(9)] == list(classes)
    assert (ours["TUM"], ours["LYM"], ours["ADI"]) == ("tumour epithelium", "lymphocytes", "adipose")


def test_scored_end_to_end(home, tmp_path):
    put(home, "resnet18-pcam", classes=2, backbone="resnet18")
    slide = write_svs(tmp_path / "small.svs", TissuePicture(900, 700, tissue=0.8), factors=(1,), mpp=0.5)
    out = tmp_path / "out"
    arguments = ["score", slide, "--model", "tiatoolbox:resnet18-pcam", "--out", out, "--workers", "1"]
    done = CliRunner().invoke(app, [*map(str, arguments), "--engine", "torch", "--precision", "exact"])
    assert done.exit_code == 0, done.output
    row = pd.read_csv(out / "results.csv").iloc[0]
    assert row.status == "scored"
    assert row.prediction in ("no metastasis", "metastasis")
    assert row["p_metastasis"] + row["p_no metastasis"] == pytest.approx(1, abs=1e-5)
    assert row.patches >= 4
    assert "tiatoolbox-resnet18-pcam" in (out / "run.json").read_text()
    record = json.loads((out / "slides" / "small" / "slide.json").read_text())
    assert record["model"] == "tiatoolbox-resnet18-pcam 1.0.0"


def test_a_hub_out_of_reach_is_said_with_the_way_out(home):
    with pytest.raises(BundleError, match="its hub cannot provide them") as caught:
        load_bundle("tiatoolbox:resnet18-pcam")
    assert caught.value.where == str(home / "models" / "resnet18-pcam.pth")
    assert "Download resnet18-pcam.pth from the hub's repository TIACentre/" in caught.value.remedy


def test_a_checkpoint_that_runs_code_is_refused_and_does_not(home, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'was-run')!r}, 'w')",))

    path = home / "models" / "resnet18-pcam.pth"
    path.parent.mkdir(parents=True)
    for writer in (lambda: torch.save({"weight": Harmful()}, path), lambda: path.write_bytes(pickle.dumps(Harmful()))):
        writer()
        with pytest.raises(UnsafeWeightsError, match="is not loaded"):
            load_bundle("tiatoolbox:resnet18-pcam")
    assert not (tmp_path / "was-run").exists()
    assert not list((tmp_path / "cache").glob("tiatoolbox/*"))


def test_weights_of_another_network_are_refused(home):
    put(home, "resnet18-pcam", classes=2, backbone="alexnet")
    with pytest.raises(BundleError, match="do not match the network"):
        load_bundle("tiatoolbox:resnet18-pcam")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18-pcan", "tiatoolbox:resnet18-pcam"),
        ("hovernet_fast-pannuke", "is not a patch classifier"),
        ("../../elsewhere", "no patch classifier called"),
    ],
)
def test_other_names_are_refused(home, name, message):
    with pytest.raises(UnknownModelError, match=message):
        load_bundle(f"tiatoolbox:{name}")


def test_without_the_library_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tiatoolbox", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sarcoma-pathology\[tiatoolbox\]'"):
        load_bundle("tiatoolbox:resnet18-pcam")


def test_importing_it_leaves_logging_and_warnings_as_they_were(home):
    # In a process of its own, since here the library is imported already.
    code = (
        "import logging, warnings\n"
        "from pathology.bundle.tiatoolbox_zoo import zoo_models\n"
        "state = lambda: (logging.getLogger().handlers[:], logging.getLogger().level, warnings.showwarning,"
        " warnings.filters[:])\n"
        "before = state()\n"
        "assert len(zoo_models()) >= 41\n"
        "assert state() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
