"""A bundle's network for OpenVINO: equal to torch's, needs no torch, and refused where anything was changed."""

import json
import shutil
import sys

import numpy as np
import pytest

from pathology.bundle.card import CARD_NAME, read_card, write_card
from pathology.bundle.catalogue import load_bundle
from pathology.bundle.export import export_bundle, import_bundle
from pathology.bundle.graph import check_graph, check_patches, graph_agreement, graph_fits, read_network
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import file_sha256
from pathology.errors import BundleError, MissingDependencyError, PathologyError, WeightsHashError
from pathology.inference.engines.openvino import OpenVINOEngine
from pathology.inference.engines.portable import add_graph
from pathology.inference.engines.select import choose_engine, make_engine
from pathology.testing.random_bundle import SMALL_NETWORK, write_random_bundle

CHECK_SUM = 634149364
PATCHES = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_random_bundle(tmp_path_factory.mktemp("plain") / "small", **SMALL_NETWORK)


@pytest.fixture(scope="module")
def converted(plain, tmp_path_factory):
    folder = shutil.copytree(plain, tmp_path_factory.mktemp("converted") / plain.name)
    add_graph(folder)
    return folder


@pytest.fixture
def folder(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / converted.name)


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def change_card(folder, **fields):
    card = read_card(folder / CARD_NAME)
    write_card(card.model_copy(update=fields), folder / CARD_NAME)


def rehash(folder):
    """Make the card agree with changed files, as who wants to deceive would."""
    graph = read_card(folder / CARD_NAME).graph
    hashes = {
        "graph_sha256": file_sha256(folder / "network.xml"),
        "constants_sha256": file_sha256(folder / "network.json"),
    }
    change_card(folder, graph=graph.model_copy(update=hashes))


def predicted(folder, **options):
    engine = OpenVINOEngine(load_bundle(folder), threads=1, **options)
    try:
        return engine.predict(PATCHES)
    finally:
        engine.close()


def test_predicts_exactly_what_a_conversion_from_torch_does(plain, converted):
    assert np.array_equal(predicted(converted), predicted(plain))


@pytest.mark.usefixtures("no_torch")
def test_runs_and_verifies_without_torch(converted):
    bundle = load_bundle(converted)
    assert choose_engine(bundle) == "openvino"
    engine = make_engine(bundle, precision="exact", threads=1)
    assert engine.predict(PATCHES).shape == (8, 3)
    engine.close()
    checks = verify_bundle(converted)
    assert [check.error for check in checks] == [None] * 9
    assert any("left to the network for OpenVINO" in check.found for check in checks)
    for asked in ({"kind": "torch"}, {"kind": "openvino", "features": True}):
        with pytest.raises(MissingDependencyError, match=r"sarcoma-pathology\[torch\]"):
            make_engine(bundle, **asked)


@pytest.mark.usefixtures("no_torch")
def test_a_bundle_without_graph_says_what_it_needs(plain):
    for run in (lambda: predicted(plain), load_bundle(plain).network, lambda: add_graph(plain)):
        with pytest.raises(MissingDependencyError, match=r"needs torch\. Install it: pip install"):
            run()


@pytest.mark.parametrize("name", ["network.xml", "network.json", "weights.safetensors"])
def test_a_changed_byte_is_refused(folder, name):
    bundle = load_bundle(folder)
    predicted(folder)  # the prepared network is in the cache
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsHashError):
        load_bundle(folder)
    with pytest.raises(WeightsHashError):
        read_network(folder, bundle.card)
    if name != "weights.safetensors":
        with pytest.raises(WeightsHashError):
            OpenVINOEngine(bundle)


def test_a_missing_file_is_refused(folder):
    (folder / "network.json").unlink()
    with pytest.raises(BundleError, match=r"the bundle has no network\.json"):
        load_bundle(folder)


def test_a_card_that_says_something_else_is_not_answered_by_the_old_graph(folder, plain):
    change_card(folder, calibration={"temperature": 2.0})
    bundle = load_bundle(folder)
    assert not graph_fits(bundle.card)
    # Converted again from torch, with the temperature.
    assert np.abs(predicted(folder) - predicted(plain)).max() > 1e-3
    failed = verify_bundle(folder)[-1]
    assert "made for another card" in str(failed.error)
    add_graph(folder)
    assert verify_bundle(folder)[-1].error is None


def altered(folder, change):
    path = folder / "network.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    rehash(folder)
    return read_card(folder / CARD_NAME)


def shared(about):
    return next(part for part in about["parts"] if part[2] == "weights")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: shared(about).__setitem__(3, "no.such.tensor"), "do not fit the weights"),
        (lambda about: shared(about).__setitem__(1, 4), "the graph wants 4"),
        (lambda about: about["parts"].pop(0), "have a gap"),
        (lambda about: about.__setitem__("outputs", about["outputs"][:16]), "other outputs than torch"),
        (lambda about: about.__setitem__("outputs", "?"), "damaged"),
        (lambda about: about.__setitem__("format", 2), "newer version"),
        (lambda about: about.pop("parts"), "do not fit the weights"),
    ],
)
def test_damaged_constants_are_refused(folder, change, said):
    card = altered(folder, change)
    with pytest.raises(BundleError, match=said):
        check_graph(folder, card)


def test_a_graph_that_computes_something_else_fails_verification(folder):
    path = folder / "network.xml"
    graph = path.read_text()
    assert 'type="ReLU"' in graph
    path.write_text(graph.replace('type="ReLU"', 'type="Abs"', 1))
    rehash(folder)
    failed = verify_bundle(folder)[-1]
    assert "does not agree with torch" in str(failed.error)


def test_a_graph_that_openvino_cannot_read_is_an_error_of_ours(folder):
    path = folder / "network.xml"
    path.write_text(path.read_text().replace('type="ReLU"', 'type="NoSuchLayer"', 1))
    rehash(folder)
    with pytest.raises(PathologyError, match="OpenVINO cannot read the graph"):
        check_graph(folder, read_card(folder / CARD_NAME))


def test_it_travels_with_the_bundle(converted, tmp_path):
    archive = export_bundle(converted, tmp_path / "small.zip")
    imported = import_bundle(archive, folder=tmp_path / "models")
    assert (imported.directory / "network.xml").read_bytes() == (converted / "network.xml").read_bytes()
    assert graph_fits(imported.card)


def test_agreement_is_judged(converted):
    card = read_card(converted / CARD_NAME)
    rows = np.array([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]], np.float32)
    assert graph_agreement(card, rows, rows).holds
    assert graph_agreement(card, rows + 2e-5, rows).mean_difference == pytest.approx(2e-5, rel=0.01)
    assert not graph_agreement(card, rows + 2e-5, rows).holds
    assert not graph_agreement(card, rows[:, ::-1], rows).same_class
    assert not graph_agreement(card, np.full_like(rows, np.nan), rows).holds
    assert not graph_agreement(card, rows[:1], rows).holds


def test_check_patches_are_the_same_everywhere():
    assert check_patches(64).shape == (4, 64, 64, 3)
    assert int(check_patches(512).astype(np.int64).sum()) == CHECK_SUM
