import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from pathology.errors import UsageError
from pathology.radiology.models.sliding_window import WindowSettings, predict_volume, window


class Voxelwise(nn.Module):
    """A logit that depends on its voxel alone: any tiling must give the same answer."""

    def forward(self, x):
        return x.sum(dim=1, keepdim=True)


@given(
    st.tuples(st.integers(1, 13), st.integers(3, 20), st.integers(3, 20)),
    st.tuples(st.integers(1, 6), st.integers(2, 9), st.integers(2, 9)),
    st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_voxel_gets_its_own_value(shape, size, overlap, gaussian):
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    chosen = WindowSettings(size=size, overlap=overlap, gaussian=gaussian, batch=3)
    found = predict_volume(Voxelwise(), image, chosen)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-image.sum(axis=0))), atol=1e-5)


def test_equals_monai():
    torch.manual_seed(0)
    network = nn.Conv3d(1, 1, 3, padding=1).eval()
    image = np.random.default_rng(1).normal(size=(1, 12, 20, 24)).astype(np.float32)
    chosen = WindowSettings(size=(6, 8, 8), overlap=0.5, gaussian=False)
    own = predict_volume(network, image, chosen)
    with torch.no_grad():
        other = sliding_window_inference(
            torch.from_numpy(image)[None], (6, 8, 8), 2, lambda x: torch.sigmoid(network(x)), overlap=0.5
        )
    np.testing.assert_allclose(own, other[0, 0].numpy(), atol=1e-6)


def test_neighbouring_slices_are_channels():
    image = np.arange(5, dtype=np.float32)[None, :, None, None] * np.ones((1, 5, 4, 4), np.float32)
    chosen = WindowSettings(size=(1, 4, 4), planar=True, neighbours=1)
    assert window(image, (0, 0, 0), chosen)[:, 0, 0].tolist() == [0, 0, 1]
    assert window(image, (2, 0, 0), chosen)[:, 0, 0].tolist() == [1, 2, 3]
    assert window(image, (4, 0, 0), chosen)[:, 0, 0].tolist() == [3, 4, 4]
    found = predict_volume(nn.Conv2d(3, 1, 1), image, chosen)
    assert found.shape == (5, 4, 4)
    with pytest.raises(UsageError, match="1 slice deep"):
        predict_volume(Voxelwise(), image, WindowSettings(size=(2, 4, 4), planar=True))
    with pytest.raises(UsageError, match="planar"):
        predict_volume(Voxelwise(), image, WindowSettings(size=(2, 4, 4), neighbours=1))


def peak(depth, tmp_path):
    image = np.lib.format.open_memmap(tmp_path / f"i{depth}.npy", "w+", np.float32, (1, depth, 48, 48))
    out = np.lib.format.open_memmap(tmp_path / f"o{depth}.npy", "w+", np.float32, (depth, 48, 48))
    tracemalloc.start()
    predict_volume(Voxelwise(), image, WindowSettings(size=(8, 24, 24)), out=out)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (out == 0.5).all()
    return most


def test_memory_does_not_grow_with_depth(tmp_path):
    peak(16, tmp_path)  # the first run also loads code
    shallow, deep = peak(16, tmp_path), peak(160, tmp_path)
    assert deep < shallow * 1.3
