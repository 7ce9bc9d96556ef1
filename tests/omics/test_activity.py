"""The network equals Keras on the published weights, and a forward pass written out in numpy."""

import h5py
import numpy as np
import pytest
import torch

from pathology.errors import BundleError, UsageError
from pathology.omics.activity import (
    ActivityNetwork,
    TransferSettings,
    load_keras_weights,
    predict_activity,
    published_mark,
    transfer,
)

# Keras 3.15.1 (torch backend) on the published weights and np.random.default_rng(0).random((8, 2, 20, 3)) as float32.
KERAS = {
    "H3K27ac": (-4.9522481, -5.7710867, -5.9395704, -5.3841896, -5.6844702, -4.1831717, -4.4934778, -6.4712768),
    "H3K4me3": (-1.1519191, -1.3087193, -0.6747229, -1.2551162, -0.1867113, -0.6255744, -0.6962591, -1.3886602),
}


def _features(x):
    """Put the three used features where four are expected."""
    return np.stack([x[..., 0], x[..., 1], np.full(x.shape[:3], 9.0), x[..., 2]], axis=-1)


def _forward(path, x):
    """The network as Keras defines it, in numpy, one window at a time."""
    with h5py.File(path) as file:
        w = {
            n: (file[f"model_weights/{n}/{n}/kernel:0"][()].astype(float), file[f"model_weights/{n}/{n}/bias:0"][()])
            for n in ("conv2d_1", "conv2d_2", "conv2d_3", "dense_1", "dense_2")
        }

    def leaky(v):
        return np.where(v > 0, v, 0.1 * v)

    for name in ("conv2d_1", "conv2d_2", "conv2d_3"):
        kernel, bias = w[name]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
        x = leaky(
            np.stack([np.einsum("nhkc,kcf->nhf", padded[:, :, j : j + 3], kernel[0]) for j in range(20)], axis=2) + bias
        )
    x = x.reshape(len(x), -1)
    x = leaky(x @ w["dense_1"][0] + w["dense_1"][1])
    return (x @ w["dense_2"][0] + w["dense_2"][1])[:, 0]


def test_parameters_are_the_published_number():
    assert sum(p.numel() for p in ActivityNetwork().parameters()) == 21_089


def test_prediction_equals_a_numpy_forward_pass(tmp_path, write_keras_weights):
    path = write_keras_weights(tmp_path / "w.h5")
    x = np.random.default_rng(1).random((5, 2, 20, 3))
    ours = predict_activity(load_keras_weights(path), _features(x), batch=2)
    assert ours == pytest.approx(_forward(path, x), abs=1e-5)


@pytest.mark.parametrize("mark", ["H3K27ac", "H3K4me3"])
def test_published_weights_equal_keras(data_dir, mark):
    path = data_dir / "methylation" / f"M2A_{mark}_Model_V2.h5"
    x = np.random.default_rng(0).random((8, 2, 20, 3)).astype(np.float32)
    network = load_keras_weights(path)
    assert predict_activity(network, _features(x)) == pytest.approx(KERAS[mark], abs=1e-5)
    assert _forward(path, x.astype(float)) == pytest.approx(KERAS[mark], abs=1e-5)
    assert published_mark(path) == mark


def test_other_files_are_refused(tmp_path, write_keras_weights):
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(BundleError, match="not a weight file"):
        load_keras_weights(tmp_path / "text.h5")
    path = write_keras_weights(tmp_path / "w.h5")
    assert published_mark(path) is None
    with h5py.File(path, "a") as file:
        del file["model_weights/dense_1/dense_1/kernel:0"]
        file["model_weights/dense_1/dense_1/kernel:0"] = np.zeros((7, 64), np.float32)
    with pytest.raises(BundleError):
        load_keras_weights(path)


def test_features_of_another_shape_are_refused(tmp_path, write_keras_weights):
    network = load_keras_weights(write_keras_weights(tmp_path / "w.h5"))
    with pytest.raises(UsageError, match="expected"):
        predict_activity(network, np.zeros((3, 2, 20, 3)))
    with pytest.raises(UsageError, match="without missing"):
        predict_activity(network, np.full((3, 2, 20, 4), np.nan))


class TestTransfer:
    @pytest.fixture
    def start(self, tmp_path, write_keras_weights):
        return load_keras_weights(write_keras_weights(tmp_path / "w.h5"))

    def test_the_last_layers_learn_and_the_convolutions_stay(self, start):
        rng = np.random.default_rng(2)
        x = rng.random((400, 2, 20, 4))
        y = 3 * x[:, 0, 10, 0] - 2 * x[:, 1, 3, 3]
        before = {k: v.clone() for k, v in start.state_dict().items()}
        trained, result = transfer(start, x, y, TransferSettings(epochs=15), seed=1)
        assert result.after < 0.5 * result.before
        assert (result.promoters, result.held_out) == (320, 80)
        assert all(torch.equal(v, start.state_dict()[k]) for k, v in before.items())
        for name, value in trained.state_dict().items():
            assert torch.equal(value, before[name]) == name.startswith("conv")
        assert float(trained.dense1.weight.detach().norm(dim=1).max()) <= 3 + 1e-5
        other, _ = transfer(start, x, y, TransferSettings(epochs=15), seed=1)
        assert torch.equal(other.dense2.weight, trained.dense2.weight)

    def test_it_stops_early_when_nothing_can_be_learnt(self, start):
        x = np.random.default_rng(3).random((60, 2, 20, 4))
        constant = predict_activity(start, x)
        _, result = transfer(start, x, constant, TransferSettings(patience=3))
        assert result.epochs == 3
        assert result.after == pytest.approx(0, abs=1e-9)

    def test_shapes_are_checked(self, start):
        with pytest.raises(UsageError, match="at least ten"):
            transfer(start, np.zeros((4, 2, 20, 4)), np.zeros(4))
