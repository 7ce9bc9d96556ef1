"""Fitting on patch stores: stages, rates, weights, stopping, and going on after an interruption."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.utils.class_weight import compute_class_weight

from pathology.errors import UsageError
from pathology.evaluation.labels import LabelledSlide, LabelledSlides
from pathology.networks.registry import build_network
from pathology.tiling.store import PatchStore
from pathology.training.classifier.fit import fit_slides, validation_figures
from pathology.training.classifier.patches import SlidePatches, TrainingPatches
from pathology.training.classifier.predict import SlideLogits, predict_slides
from pathology.training.classifier.recipe import SlideRecipe, Stage
from pathology.training.common.checkpoint import Checkpoint
from pathology.training.common.distributed import Distributed, distributed_training

ALONE = Distributed(0, 1, torch.device("cpu"))
ROWS = np.arange(4)


def recipe(**changes):
    return SlideRecipe.model_validate(
        {
            "architecture": "densenet121-foersch",
            "mpp": 1.0,
            "patch": 32,
            "batch": 4,
            "stages": (Stage(epochs=1, frozen=True, learning_rate=1e-3), Stage(epochs=2, learning_rate=1e-3)),
            "augmentation": "none",
            **changes,
        }
    )


def network(seed=0):
    torch.manual_seed(seed)
    return build_network("densenet121-foersch", 2)


def test_patches_to_keep_and_their_counts(patches):
    assert patches.counts(ROWS).tolist() == [2 + 8, 16]
    data = TrainingPatches(patches.shuffled(ROWS, seed=0), patches.labelled.labels, "none", 0)
    seen = [label for _, label in data]
    assert len(data) == len(seen) == 26
    assert np.bincount(seen).tolist() == [10, 16]


def test_changes_depend_on_seed_epoch_and_patch_alone(patches):
    def pixels(epoch, seed=0):
        data = TrainingPatches(patches.shuffled(ROWS, seed=seed), patches.labelled.labels, "turns-and-colour", seed)
        data.set_epoch(epoch)
        return sorted(bytes(p.numpy()) for p, _ in data)

    assert pixels(0) == pixels(0)
    assert pixels(0) != pixels(1)
    assert pixels(0) != pixels(0, seed=1)


class Killed(Exception):
    pass


class KillAfter:
    """Ends a training as abruptly as Python allows, after some epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def say(self, line):
        raise AssertionError(line)  # nothing is searched here

    def step(self, stage, epoch, step, steps, loss):
        assert 1 <= step <= steps
        assert np.isfinite(loss)

    def epoch(self, record):
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture(scope="module")
def whole(patches):
    return fit_slides(network(), patches, ROWS, ROWS, recipe(), ranks=ALONE)


def test_it_learns_what_is_plain_to_see(whole, patches):
    assert [(r.stage, r.epoch) for r in whole.history] == [(1, 1), (2, 1), (2, 2)]
    assert whole.history[-1].loss < whole.history[0].loss
    assert whole.best in whole.history
    assert all(0 <= r.waiting <= 1 for r in whole.history)
    labels = np.repeat([0, 1], patches.counts(ROWS))
    balanced = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    np.testing.assert_allclose(whole.class_weights, balanced, rtol=1e-6)


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_interrupted_training_ends_with_the_same_weights(whole, patches, tmp_path, epochs):
    checkpoint = Checkpoint(tmp_path / "state", "one")
    with pytest.raises(Killed):
        fit_slides(
            network(), patches, ROWS, ROWS, recipe(), ranks=ALONE, checkpoint=checkpoint, progress=KillAfter(epochs)
        )
    resumed = fit_slides(network(9), patches, ROWS, ROWS, recipe(), ranks=ALONE, checkpoint=checkpoint)
    assert [r.loss for r in resumed.history] == [r.loss for r in whole.history]
    assert [r.learning_rate for r in resumed.history] == [r.learning_rate for r in whole.history]
    assert [r.best for r in resumed.history] == [r.best for r in whole.history]
    ours, theirs = whole.network.state_dict(), resumed.network.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert len(list(checkpoint.folder.glob("*.safetensors"))) == 1
    with pytest.raises(UsageError, match="another training"):
        fit_slides(
            network(), patches, ROWS, ROWS, recipe(), ranks=ALONE, checkpoint=Checkpoint(tmp_path / "state", "two")
        )


def test_a_finished_training_is_read_and_not_repeated(patches, tmp_path):
    short = recipe(stages=(Stage(epochs=1),))
    checkpoint = Checkpoint(tmp_path / "state", "one")
    first = fit_slides(network(), patches, ROWS, ROWS, short, ranks=ALONE, checkpoint=checkpoint)
    again = fit_slides(
        network(5), patches, ROWS, ROWS, short, ranks=ALONE, checkpoint=checkpoint, progress=KillAfter(1)
    )
    assert again.history == first.history
    for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)


class TestInceptionAt299Pixels:
    """The auxiliary classifier learns at the size the network was made for."""

    def recipe(self, **changes):
        stages = (Stage(epochs=1, learning_rate=1e-6),)
        options = {"architecture": "inception-v3", "patch": 299, "batch": 8, "stages": stages, "weight_decay": 0.0}
        return recipe(**{**options, "class_weights": False, **changes})

    def network(self):
        torch.manual_seed(0)
        return build_network("inception-v3", 2, dropout=0.0)

    def test_its_loss_counts_as_stated(self, large_patches):
        pixels = np.concatenate([PatchStore.open(path)[[0, 1]] for path in large_patches.stores])
        x = torch.from_numpy(pixels / 255).float().permute(0, 3, 1, 2)
        x = (x - torch.tensor(recipe().mean).view(1, 3, 1, 1)) / torch.tensor(recipe().std).view(1, 3, 1, 1)
        truth = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
        with torch.no_grad():
            main, auxiliary = (
                torch.nn.functional.cross_entropy(logits, truth).item() for logits in self.network().train()(x)
            )
        fitted = fit_slides(self.network(), large_patches, ROWS, ROWS[:1], self.recipe(), ranks=ALONE)
        assert auxiliary > 0.3  # what would be missing, 0.12 and more, is far above the tolerance
        assert fitted.history[0].loss == pytest.approx(main + 0.4 * auxiliary, rel=0.04)

    @pytest.mark.parametrize("weight", [0.4, 0.0])
    def test_its_weights_learn_if_it_counts(self, large_patches, weight):
        fitted = fit_slides(
            self.network(), large_patches, ROWS, ROWS[:1], self.recipe(auxiliary_weight=weight), ranks=ALONE
        )
        before, after = (n.AuxLogits.fc.weight.detach() for n in (self.network(), fitted.network))
        assert torch.equal(before, after) == (weight == 0)
        assert not torch.equal(self.network().fc.weight.detach(), fitted.network.fc.weight.detach())


def test_a_frozen_body_keeps_its_weights(patches):
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fit_slides(
        net, patches, ROWS, ROWS, recipe(stages=(Stage(epochs=1, frozen=True, learning_rate=1e-2),)), ranks=ALONE
    )
    after = net.state_dict()
    assert torch.equal(before["0.0.conv0.weight"], after["0.0.conv0.weight"])
    assert not torch.equal(before["1.8.weight"], after["1.8.weight"])
    assert not torch.equal(before["0.0.norm0.weight"], after["0.0.norm0.weight"])  # fastai's train_bn


def test_patience_stops_a_stage_on_validation_alone(patches):
    # With a rate of nearly nothing no epoch is better than the first by more than noise of the running means.
    still = recipe(
        stages=(Stage(epochs=6, learning_rate=1e-12),), patience=2, choose="patch accuracy", weight_decay=0.0
    )
    fitted = fit_slides(network(), patches, ROWS, np.array([1, 2]), still, ranks=ALONE)
    assert len(fitted.history) < 6
    assert not any(r.best for r in fitted.history[-2:])


def test_validation_figures_by_hand():
    def slide(p):
        return SlideLogits(np.arange(len(p)), np.log(np.array(p, np.float32)))

    found = [slide([[0.8, 0.2], [0.4, 0.6]]), slide([[0.5, 0.5]])]
    loss, accuracy, slide_loss = validation_figures(found, [0, 1])
    assert loss == pytest.approx((-(np.log(0.8) + np.log(0.4)) / 2 - np.log(0.5)) / 2, rel=1e-5)
    assert accuracy == pytest.approx(1 / 3)  # the tie goes to the first class, which is wrong
    assert slide_loss == pytest.approx((-np.log(0.6) - np.log(0.5)) / 2, rel=1e-5)


def test_validation_figures_tell_very_sure_networks_apart():
    """Probabilities of 0 and 1 would cost the same however wrong the logits are."""
    costs = [
        validation_figures([SlideLogits(np.arange(2), np.array([[k, 0], [k, 0]], np.float32))], [1]) for k in (90, 900)
    ]
    assert [c[0] for c in costs] == pytest.approx([90, 900])
    assert [c[2] for c in costs] == pytest.approx([90, 900])


def test_predictions_come_slide_by_slide_whatever_the_loaders(patches):
    net = network().eval()
    alone, shared = (
        predict_slides(net, patches, np.array([2, 0]), recipe(), device=ALONE.device, loaders=n) for n in (0, 2)
    )
    assert [len(s.patches) for s in alone] == [8, 2]
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a.patches, b.patches)
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-3, atol=1e-4)
    pixels = PatchStore.open(patches.stores[2])[[0]]
    mean, std = np.array(recipe().mean), np.array(recipe().std)
    x = torch.from_numpy(((pixels / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = net(x).numpy()
    np.testing.assert_allclose(alone[0].logits[:1], expected, rtol=1e-3, atol=1e-4)


def _train_apart(given):
    """One of two processes; leaves the head's weights."""
    told = json.loads(Path(given).read_text())
    slides = tuple(LabelledSlide(f"s{i}", Path("none"), f"p{i}", i % 2) for i in range(4))
    patches = SlidePatches(
        LabelledSlides(("dark", "bright"), slides),
        tuple(map(Path, told["stores"])),
        tuple(np.array(keep, bool) for keep in told["keep"]),
    )
    with distributed_training("cpu") as ranks:
        fitted = fit_slides(network(), patches, ROWS, ROWS, recipe(stages=(Stage(epochs=1),)), ranks=ranks)
        assert (ranks.world, ranks.first) == (2, ranks.rank == 0)
        head = {"head": fitted.network[1][8].weight.detach().clone()}
        save_file(head, Path(told["results"]) / f"{ranks.rank}.safetensors")


def test_two_processes_train_one_network(patches, tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_fit as t; t._train_apart(sys.argv[2])"
    given = tmp_path / "given.json"
    told = {"stores": [*map(str, patches.stores)], "keep": [k.tolist() for k in patches.keep], "results": str(tmp_path)}
    given.write_text(json.dumps(told))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(Path(__file__).parent), str(given)],
            env={
                **os.environ,
                "WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    first, second = (load_file(tmp_path / f"{rank}.safetensors")["head"] for rank in range(2))
    # The gradients were averaged: both have learnt the same, and something.
    assert torch.equal(first, second)
    assert not torch.equal(first, network()[1][8].weight)


def test_too_few_patches_are_refused(patches):
    lone = SlidePatches(patches.labelled, patches.stores, tuple(np.arange(8) < 1 for _ in range(4)))
    with pytest.raises(UsageError, match="too few training patches"):
        fit_slides(network(), lone, np.array([0]), ROWS, recipe(), ranks=ALONE)
