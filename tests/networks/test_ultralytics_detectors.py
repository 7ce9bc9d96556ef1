"""Detectors of the Ultralytics family behind our own calls."""

import importlib.util
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from pathology.errors import MissingDependencyError
from pathology.inference.engines.detector import PatchDetector, WindowDetector
from pathology.networks.registry import build_network
from pathology.networks.ultralytics_detectors import yolov4_csp_definition
from pathology.networks.yolov4 import yolov4_csp

# Found, not imported: importing it changes other libraries.
HERE = importlib.util.find_spec("ultralytics") is not None
needed = pytest.mark.skipif(not HERE, reason="needs the extra: ultralytics")


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))


def shaken(definition, **options):
    """A detector whose answers differ from place to place, as those of fresh weights do not."""
    torch.manual_seed(0)
    network = build_network("ultralytics", 1, definition=definition, **options).eval()
    with torch.no_grad():
        for convolution in network.modules():
            if isinstance(convolution, nn.Conv2d) and convolution.bias is not None and convolution.out_channels == 1:
                convolution.weight.normal_(0, 3)
    return network


@needed
@pytest.mark.parametrize(("definition", "options"), [("yolo26n.yaml", {}), ("yolov4-csp", {"width": 0.125})])
class TestDetector:
    def test_boxes_come_as_from_our_own_detectors(self, definition, options):
        network = shaken(definition, **options)
        again = build_network("ultralytics", 1, definition=definition, **options).eval()
        again.load_state_dict(network.state_dict())
        windows = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
        first, second = (
            WindowDetector(n, device=torch.device("cpu"), floor=0.0).detect(windows) for n in (network, again)
        )
        np.testing.assert_array_equal(first, second)
        assert (first[:, 0, 2:4] > first[:, 0, :2]).all(), "left and top before right and bottom"
        assert (np.diff(first[..., 4], axis=1) <= 0).all()

    def test_candidates_are_the_peaks_of_each_level(self, definition, options):
        network = shaken(definition, **options)
        x = torch.rand(1, 3, 64, 96)
        with torch.inference_mode():
            every = network.decode(network(x), 96)[0]
            kept = network.candidates(x)[0]
        np.testing.assert_array_equal(every[:, :4], kept[:, :4])
        start = 0
        for rows, columns in ((8, 12), (4, 6), (2, 3)):  # strides 8, 16, 32
            level = every[start : start + rows * columns, 4].view(rows, columns).numpy()
            peaks = kept[start : start + rows * columns, 4].view(rows, columns).numpy()
            padded = np.pad(level, 1, constant_values=-1)
            best = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max(axis=(2, 3))
            np.testing.assert_array_equal(peaks, np.where(level == best, level, 0))
            start += rows * columns
        assert start == len(every)

    def test_the_surest_box_of_a_patch_is_that_of_plain_suppression(self, definition, options):
        network = shaken(definition, **options)
        patches = np.random.default_rng(1).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
        with torch.inference_mode():
            few = PatchDetector(network, (0, 0, 0), (1, 1, 1), 0.0).eval()(torch.from_numpy(patches)).view(3, -1, 5)
        every = WindowDetector(network, device=torch.device("cpu"), floor=0.0).detect(patches)
        np.testing.assert_allclose(few[:, 0], every[:, 0], atol=1e-3)


@needed
def test_yolov4_csp_in_the_librarys_words_has_the_stages_of_ours():
    theirs = build_network("ultralytics", 1, definition="yolov4-csp", width=0.25)
    ours = yolov4_csp(1, width=0.25)

    def body(network):
        """Count the 3 x 3 convolutions with a stride, by output channels: where the graph changes its resolution."""
        return Counter(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2))

    assert body(theirs) == body(ours)
    assert all(isinstance(m.act, nn.Mish) for m in theirs.modules() if type(m).__name__ == "Conv")
    count, reference = (sum(p.numel() for p in n.parameters()) for n in (theirs, ours))
    assert 0.9 < count / reference < 1.1


@needed
def test_unknown_definitions_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown model file"):
        build_network("ultralytics", 1, definition="yolo999.yaml")
    with pytest.raises(ValueError, match="width"):
        build_network("ultralytics", 1, definition="yolo26n.yaml", width=0.5)


def test_the_definition_is_plain_data():
    definition = yolov4_csp_definition(2, width=0.5)
    assert definition["nc"] == 2
    places = range(len(definition["backbone"]) + len(definition["head"]))
    for place, (source, *_) in zip(places, definition["backbone"] + definition["head"], strict=True):
        assert all(s < place for s in (source if isinstance(source, list) else [source])), (
            "only earlier layers are read"
        )


@pytest.mark.skipif(HERE, reason="the extra is installed")
def test_without_the_library_it_says_what_to_install():
    with pytest.raises(MissingDependencyError, match="ultralytics"):
        build_network("ultralytics", 1)
