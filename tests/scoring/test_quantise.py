"""Networks in 8-bit integers: made from slides, checked on others, scored with, and refused where they disagree."""

import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

pytest.importorskip("openvino")
pytest.importorskip("nncf")

from pathology.bundle.card_page import card_markdown
from pathology.bundle.catalogue import load_bundle
from pathology.bundle.export import export_bundle, import_bundle
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import file_sha256
from pathology.cli.models import app
from pathology.errors import BundleError, MissingDependencyError, UsageError, WeightsHashError
from pathology.inference.engines import openvino, quantise, select
from pathology.inference.engines.openvino import OpenVINOEngine
from pathology.inference.engines.recheck import MARGIN, RecheckTies
from pathology.scoring.batch import score
from pathology.scoring.quantise import LIMITS, chosen_margin, quantise_bundle, quantised_agreement
from pathology.settings import ScoreSettings
from pathology.testing.constructed_slides import construct_slide, drawn_tiles
from pathology.testing.engine_suite import EngineSuite
from pathology.testing.random_bundle import add_random_trust, reference_probabilities, write_random_bundle
from pathology.testing.random_detector import write_random_detector

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NNCF and OpenVINO, about their own parts


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    tiles = drawn_tiles(("a", "b"), 2, side=128)
    lines = ["slide_id,patient_id,path"]
    for patient, label in dict(zip(tiles.patients, tiles.labels, strict=True)).items():
        made = construct_slide(
            folder / f"{patient}.tiff",
            tiles,
            patient=patient,
            shares={tiles.classes[label]: 1},
            rows=4,
            columns=5,
            cell=128,
            margin=64,
        )
        lines.append(f"slide-of-{patient},{patient},{made.path.name}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def spread(folder, factor):
    """Multiply the last layer, so that random weights give answers far apart."""
    state = load_file(folder / "weights.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name] * factor
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "weights.safetensors")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card["weights_sha256"] = file_sha256(folder / "weights.safetensors")
    (folder / "card.yaml").write_text(yaml.safe_dump(card))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_random_bundle(tmp_path_factory.mktemp("models") / "plain", mpp=1.0)
    spread(folder, 1.5)
    add_random_trust(folder, limit=1e9, layer="stem")
    return folder


@pytest.fixture(scope="module")
def quantised(model, slides, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATHOLOGY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return quantise_bundle(model, [slides], folder=tmp_path_factory.mktemp("made"), minimum=100)


def test_the_bundle_says_what_it_rests_on(quantised, model):
    card = quantised.card
    assert card.name == "plain-int8"
    assert card.weights_sha256 == load_bundle(model).card.weights_sha256
    found = card.int8.agreement
    assert found.apart == "patients"
    assert not set(found.slides) & set(card.int8.calibration_slides)
    assert len(found.slides) == 3
    assert found.patches >= 100
    assert 0 < found.mean_difference <= 0.003
    assert found.same_class >= 0.999
    assert found.slide_difference <= 0.005
    assert found.domain_difference <= 0.05
    assert 0 < found.computed_again < 1
    assert card.int8.margin >= MARGIN
    page = card_markdown(card)
    assert f"{found.patches:,}" in page
    assert card.int8.graph_sha256 in page
    assert verify_bundle(quantised.directory)[-1].error is None


def test_it_travels_and_a_changed_file_is_refused(quantised, tmp_path):
    zipped = export_bundle(quantised.directory, tmp_path / "bundle.zip")
    there = import_bundle(zipped, folder=tmp_path / "there")
    assert there.int8().read_bytes() == quantised.int8().read_bytes()
    constants = there.directory / "int8.bin"
    content = bytearray(constants.read_bytes())
    content[len(content) // 2] ^= 1
    constants.write_bytes(content)
    with pytest.raises(WeightsHashError):
        OpenVINOEngine(there, precision="int8")
    assert isinstance(verify_bundle(there.directory)[-1].error, WeightsHashError)
    constants.unlink()
    with pytest.raises(BundleError, match=r"no int8\.bin"):
        there.int8()


def test_which_engine_runs_it(quantised, model, monkeypatch):
    made = []

    def recorded(bundle, *, precision="fp32", batch_size=4, **others):
        made.append((precision, batch_size))
        facts = dict.fromkeys(("name", "device", "batch_size", "preferred_batch", "patch", "classes", "extras"))
        return SimpleNamespace(precision=precision, **facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "OpenVINOEngine", recorded)
        patch.setattr(openvino, "computes_bf16", lambda: True)
        fast = select.make_engine(quantised, kind="openvino")
        assert isinstance(fast, RecheckTies)
        assert fast.precision == "int8"
        assert select.make_engine(quantised, kind="openvino", precision="exact").precision == "fp32"
        assert select.make_engine(quantised, kind="openvino", features=True).precision == "bf16"
        assert select.make_engine(load_bundle(model), kind="openvino").precision == "bf16"
        patch.setattr(openvino, "computes_bf16", lambda: False)
        assert select.make_engine(quantised, kind="openvino").precision == "int8"
    for others in ({"features": True}, {}):
        with pytest.raises(UsageError, match="no network in 8-bit integers"):
            OpenVINOEngine(quantised if others else load_bundle(model), precision="int8", **others)
    torch_engine = select.make_engine(quantised, kind="torch", device="cpu", threads=1)
    assert torch_engine.precision != "int8"
    torch_engine.close()


def test_a_trial_of_the_one_is_not_taken_for_the_other(quantised, model, monkeypatch, tmp_path):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tried = []

    def rate(bundle, kind, *_):
        tried.append(bundle.name)
        return {"torch": 2.0, "openvino": 3.0 if bundle.card.int8 else 1.0}[kind]

    monkeypatch.setattr(select, "_rate", rate)
    assert select.choose_engine(load_bundle(model)) == "torch"
    assert select.choose_engine(quantised) == "openvino"
    assert tried == ["plain"] * 2 + ["plain-int8"] * 2


def probability(result, name):
    """Mean probability of a class on a slide."""
    return next(found.probability for found in result.classes if found.name == name)


def test_scoring_with_it(quantised, slides, tmp_path):
    slide = sorted(slides.parent.glob("*.tiff"))[0]
    int8 = score(slide, quantised.directory, tmp_path / "out", engine="openvino")
    assert score(slide, quantised.directory, tmp_path / "out", engine="openvino").unchanged == 1
    kept = [result.model_copy() for result in int8]
    exact = ScoreSettings(precision="exact")
    fp32 = score(slide, quantised.directory, tmp_path / "out", settings=exact, engine="openvino")
    assert fp32.unchanged == 0
    for got, reference in zip(kept, fp32, strict=True):
        assert got.status == "scored"
        assert got.engine == "openvino cpu int8, near ties fp32"
        assert reference.engine == "openvino cpu fp32"
        assert got.prediction == reference.prediction
        assert got.out_of_domain is reference.out_of_domain is False
        assert got.domain_score == pytest.approx(reference.domain_score, rel=0.05)
        for found in reference.classes:
            assert probability(got, found.name) == pytest.approx(found.probability, abs=0.005)
    assert any(a.classes != b.classes for a, b in zip(kept, fp32, strict=True))


def test_too_few_patches_are_refused_with_how_many_are_missing(model, slides, tmp_path):
    with pytest.raises(UsageError, match=r"1,000 are required \(\d+ more\)"):
        quantise_bundle(model, [slides], folder=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_disagrees_is_refused_and_leaves_nothing(quantised, model, slides, tmp_path, monkeypatch):
    def as_before(_bundle, _patches, path):
        for suffix in (".xml", ".bin"):
            shutil.copyfile(quantised.int8().with_suffix(suffix), path.with_suffix(suffix))

    found = quantised.card.int8.agreement
    monkeypatch.setattr(quantise, "quantise_network", as_before)
    monkeypatch.setitem(LIMITS, "mean_difference", found.mean_difference / 2)
    said = rf"from fp32 on {found.patches} patches of 3 slides: mean difference {found.mean_difference:.4f}"
    with pytest.raises(BundleError, match=said):
        quantise_bundle(model, [slides], folder=tmp_path / "made", minimum=100)
    assert not list((tmp_path / "made").iterdir())


def test_detectors_missing_libraries_and_taken_names_are_refused(model, slides, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is a detector"):
        quantise_bundle(write_random_detector(tmp_path / "detector"), [slides])
    (tmp_path / "taken-int8").mkdir()
    shutil.copytree(model, tmp_path / "taken")
    with pytest.raises(BundleError, match="already exists"):
        quantise_bundle(model, [slides], name="taken-int8", folder=tmp_path)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingDependencyError, match=r"sarcoma-pathology\[quantise\]"):
        quantise_bundle(model, [slides])


def test_the_command(slides, model, monkeypatch, tmp_path):
    monkeypatch.setenv("PATHOLOGY_MODELS", str(tmp_path))
    done = CliRunner().invoke(app, ["quantise", str(model), str(slides)])
    assert isinstance(done.exception, UsageError)
    assert "--stride" in str(done.exception)


def test_figures_are_those_of_the_definition():
    exact = np.array([[0.9, 0.1, 1.0], [0.45, 0.55, 2.0], [0.2, 0.8, 3.0]], np.float32)
    fast = np.array([[0.8, 0.2, 1.1], [0.52, 0.48, 2.0], [0.2, 0.8, 3.3]], np.float32)
    found = quantised_agreement({"s": (fast, exact)}, classes=2, margin=0.06, stride=64, apart="slides")
    assert found.same_class_alone == pytest.approx(2 / 3)
    assert found.same_class == 1
    assert found.computed_again == pytest.approx(1 / 3)
    assert found.mean_difference == pytest.approx(0.1 / 3, abs=1e-6)
    assert found.largest_difference == pytest.approx(0.1)
    assert found.slide_difference == pytest.approx(0.1 / 3, abs=1e-6)
    assert found.domain_difference == pytest.approx(0.0, abs=1e-6)  # medians


def test_the_margin_follows_what_moves_near_a_tie():
    exact = np.array([[0.5, 0.4, 0.1], [0.95, 0.04, 0.01]], np.float32)
    same = chosen_margin(exact, exact)
    assert same == MARGIN
    moved = exact + np.array([[-0.05, 0.05, 0], [-0.4, 0.4, 0]], np.float32)
    assert chosen_margin(moved, exact) == pytest.approx(0.15)


class TestContract(EngineSuite):
    """The engine's contract, with the network in 8-bit integers."""

    tolerance = 0.1

    @pytest.fixture(scope="class")
    def bundle(self, tmp_path_factory):
        return load_bundle(write_random_bundle(tmp_path_factory.mktemp("models") / "contract"))

    @pytest.fixture(scope="class")
    def graph(self, bundle, tmp_path_factory):
        random = np.random.default_rng(3)
        patches = random.integers(60, 240, (8, 1, 1, 3)) + random.normal(0, 25, (8, 64, 64, 3))
        path = tmp_path_factory.mktemp("graph") / "int8.xml"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATHOLOGY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
            quantise.quantise_network(bundle, np.clip(patches, 0, 255).astype(np.uint8), path)
        return path

    @pytest.fixture
    def engine(self, bundle, graph):
        return OpenVINOEngine(bundle, precision="int8", threads=2, graph=graph)

    @pytest.fixture
    def expected(self, bundle, patches):
        return reference_probabilities(bundle, patches)

    def test_threads_change_nothing(self, bundle, graph, patches, engine):
        """Bit for bit with one thread and with two."""
        alone = OpenVINOEngine(bundle, precision="int8", threads=1, graph=graph)
        np.testing.assert_array_equal(alone.predict(patches), engine.predict(patches))
        alone.close()

    def test_most_layers_are_in_integers(self, graph):
        """All convolutions but the first; not the last layer."""
        text = graph.read_text()
        assert text.count('type="Convolution"') == 120
        assert text.count('type="FakeQuantize"') > 100
