"""The bundle that comes with the package is whole, says what it must, and knows what it was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from pathology.bundle.catalogue import Bundle, load_bundle
from pathology.bundle.graph import graph_agreement, graph_fits
from pathology.bundle.verify import verify_bundle
from pathology.inference.engines.openvino import OpenVINOEngine
from pathology.inference.engines.torch import TorchEngine
from pathology.slide.open import open_reader

FOLDER = Path(__file__).parents[2] / "models" / "osteosarcoma-viability"
CLASSES = {"Non-Tumor": "non-tumour", "Non-Viable-Tumor": "non-viable tumour", "Viable": "viable tumour"}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(FOLDER)


def test_it_verifies():
    assert [check.error for check in verify_bundle(FOLDER)] == [None] * 9


@pytest.mark.parametrize(("name", "patch", "count"), [("osteosarcoma-viability", 224, 40), ("mitosis-yolov4", 512, 4)])
def test_openvino_agrees_with_torch_on_real_patches(cmu_slide, tmp_path, monkeypatch, name, patch, count):
    """With the graph that the bundle carries, in fp32."""
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path))
    bundle = load_bundle(FOLDER.parent / name)
    assert graph_fits(bundle.card)
    with open_reader(cmu_slide) as slide:
        places = [(x, y) for y in range(0, 2967 - patch, patch) for x in range(0, 2220 - patch, patch)]
        chosen = places[:: len(places) // count][:count]
        patches = np.stack([slide.read(0, x, y, patch, patch) for x, y in chosen])
    outputs = []
    for engine in (OpenVINOEngine(bundle), TorchEngine(bundle, device="cpu")):
        outputs.append(engine.predict(patches))
        engine.close()
    agreement = graph_agreement(bundle.card, *outputs)
    assert agreement.mean_difference <= 1e-5
    assert agreement.same_class
    assert agreement.holds


def test_it_is_small_enough_to_ship():
    assert (FOLDER / "weights.safetensors").stat().st_size < 15_000_000


def test_the_card_names_data_licence_and_limits(bundle):
    card = bundle.card
    (data,) = card.training_data
    assert (data.patients, data.images, data.licence) == (3, 45, "CC BY 3.0")
    assert "Leavey" in data.source
    assert "Leavey" in card.licence
    assert "confounded" in " ".join(card.limits)
    assert "Research use only" in card.intended_use


def test_every_figure_of_the_network_stands_beside_the_baselines(bundle):
    metrics = {(figure.metric, figure.data): figure for figure in bundle.card.metrics}
    networks = [key for key in metrics if key[0].endswith("(network)")]
    assert len(networks) > 10
    for metric, data in networks:
        baseline = metrics[metric.replace("(network)", "(colour baseline)"), data]
        assert baseline.n == metrics[metric, data].n
    for figure in metrics.values():
        if figure.value is not None:
            low, high = figure.interval
            assert low <= figure.value <= high


@pytest.mark.parametrize("who", ["network", "colour baseline"])
def test_the_figures_follow_from_the_predictions_shipped_with_it(bundle, who):
    """Worked out again from ``evaluation.json``, with scikit-learn and SciPy alone."""
    evaluation = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    tiles = evaluation["tiles"]
    names = sorted(tiles)
    truth = np.array([bundle.card.classes.index(tiles[name]["class"]) for name in names])
    cases = np.array([tiles[name]["case"] for name in names])
    metrics = {figure.metric: figure for figure in bundle.card.metrics}

    def predictions(design: str) -> np.ndarray:
        if who == "colour baseline":
            return np.array([evaluation["colour_baseline"][design][name] for name in names])
        rows = {}
        for fit in evaluation["fits"]:
            if fit["design"] == design:
                rows.update(zip(fit["tiles"], fit["probabilities"], strict=True))
        return np.array([rows[name] for name in names])

    def agrees(metric: str, right: np.ndarray) -> None:
        figure = metrics[f"{metric} ({who})"]
        interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
        assert figure.n == len(right)
        assert figure.value == pytest.approx(right.mean(), abs=6e-4)
        assert figure.interval == pytest.approx((interval.low, interval.high), abs=6e-4)

    held_out, within = predictions("case"), predictions("slide")
    assert np.isin(cases, ["Case-3", "Case-48", "P9"]).all()
    agrees("recall of non-tumour, all cases", held_out[truth == 0].argmax(1) == 0)
    agrees("recall of non-tumour, P9 held out", held_out[(truth == 0) & (cases == "P9")].argmax(1) == 0)
    agrees("recall of viable tumour, Case-48 held out", held_out[truth == 2].argmax(1) == 2)
    agrees("accuracy over the three classes", held_out.argmax(1) == truth)
    agrees("accuracy over the three classes, within patients", within.argmax(1) == truth)
    agrees("recall of non-viable tumour, within patients", within[truth == 1].argmax(1) == 1)
    balanced = metrics[f"balanced accuracy over the three classes, within patients ({who})"]
    assert balanced.value == pytest.approx(balanced_accuracy_score(truth, within.argmax(1)), abs=6e-4)
    for case in ("Case-3", "Case-48"):
        metric = f"area under the ROC curve, tumour of either kind against non-tumour, {case} held out ({who})"
        area = roc_auc_score(truth[cases == case] != 0, -held_out[cases == case, 0])
        assert metrics[metric].value == pytest.approx(area, abs=6e-4)


def test_it_knows_the_tiles_it_was_trained_on(bundle, data_dir):
    """A smoke test: most patches of the tiles it has seen get the class of their tile."""
    network = bundle.network()
    card = bundle.card
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (card.normalisation.mean, card.normalisation.std))
    right = []
    for folder, name in CLASSES.items():
        for path in sorted((data_dir / "osteosarcoma" / folder).glob("*.jpg"))[::3]:
            with Image.open(path) as image:
                tile = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
            patches = torch.stack([tile[:, y : y + 224, x : x + 224] for y in (0, 400, 800) for x in (0, 400, 800)])
            tissue = (patches.amin(dim=1) < 220 / 255).float().mean(dim=(1, 2)) > 0.5
            if not tissue.any():
                continue
            with torch.inference_mode():
                probabilities = torch.softmax(network((patches[tissue] - mean) / std), dim=1).mean(dim=0)
            right.append(card.classes[int(probabilities.argmax())] == name)
    assert len(right) >= 14
    assert np.mean(right) >= 0.85
