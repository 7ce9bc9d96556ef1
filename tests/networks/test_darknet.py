"""The Darknet reader against OpenCV's independent one, and YOLOv4 against its known sizes."""

import os

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pathology.networks.darknet import Darknet, YoloHead, dump_weights, load_weights, parse_cfg
from pathology.networks.yolov4 import COCO_ANCHORS, yolov4, yolov4_cfg, yolov4_csp, yolov4_csp_cfg

SMALL = """
[net]
width=64
height=64
channels=3
[convolutional]   # a comment
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[maxpool]
size=2
stride=1
[convolutional]
batch_normalize=1
filters=8
size=1
activation=mish
[route]
layers=-1
groups=2
group_id=1
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=swish
[upsample]
stride=2
[shortcut]
from=-4
activation=linear
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=10,14, 23,27
classes=2
num=2
scale_x_y=1.1
"""


def randomise(network: Darknet, seed: int) -> Darknet:
    """Give every tensor a plausible random value, running statistics included."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
            nn.init.normal_(module.running_mean, 0, 0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.7, 1.3, generator=generator)
            # OpenCV adds 1e-6 to a variance where Darknet itself adds 1e-5; over a hundred layers that shows.
            module.eps = 1e-6
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    network.eval()
    # Residual sums grow with depth; the last convolutions are scaled so that sizes, exp(t), stay finite.
    with torch.no_grad():
        maps = network(torch.rand(1, 3, *network.size, generator=generator))
        linear = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
        for convolution, raw in zip(linear, maps, strict=True):
            convolution.weight /= raw.std()
    return network


def opencv_boxes(cfg: str, network: Darknet, image: np.ndarray, tmp_path) -> list[np.ndarray]:
    """Run the same cfg and weights with OpenCV; per head rows of x, y, w, h (0..1), objectness, confidences."""
    (tmp_path / "net.cfg").write_text(cfg)
    (tmp_path / "net.weights").write_bytes(dump_weights(network))
    net = cv2.dnn.readNetFromDarknet(os.fspath(tmp_path / "net.cfg"), os.fspath(tmp_path / "net.weights"))
    net.setInput(cv2.dnn.blobFromImage(image, 1 / 255))
    return list(net.forward(net.getUnconnectedOutLayersNames()))


def test_parameter_counts_are_the_published_graphs():
    for build, parameters, convolutions in ((yolov4, 63_937_686, 110), (yolov4_csp, 52_496_022, 115)):
        with torch.device("meta"):
            network = build()
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == convolutions
        assert len(network.heads) == 3


def test_hidden_activations():
    with torch.device("meta"):
        csp, stock = yolov4_csp(), yolov4()
    assert sum(isinstance(m, nn.Mish) for m in csp.modules()) == 112
    assert sum(isinstance(m, nn.Mish) for m in stock.modules()) == 72
    assert sum(isinstance(m, nn.LeakyReLU) for m in stock.modules()) == 35


@pytest.mark.parametrize("make", [yolov4_cfg, yolov4_csp_cfg])
def test_width_keeps_the_graph(make):
    def shape_of(text):
        return [(s.kind, {k: v for k, v in s.options.items() if k != "filters"}) for s in parse_cfg(text)]

    assert shape_of(make(width=0.25)) == shape_of(make())


@pytest.mark.parametrize(
    ("make", "width", "anchors"),
    [(yolov4_cfg, 0.125, COCO_ANCHORS), (yolov4_csp_cfg, 0.125, COCO_ANCHORS), (None, 1, None)],
)
def test_decoding_equals_opencv(make, width, anchors, tmp_path):
    cfg = SMALL if make is None else make(width=width, size=96, anchors=anchors)
    network = randomise(Darknet(cfg), seed=3)
    size = network.size[0]
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        maps = network(x)
        ours = network.decode(maps, size)[0].numpy()
    theirs = np.concatenate(opencv_boxes(cfg, network, image, tmp_path))
    assert ours.shape == (len(theirs), 4 + theirs.shape[1] - 5)
    # OpenCV gives shares of the input's size.
    np.testing.assert_allclose(ours[:, :4], theirs[:, :4] * size, rtol=2e-4, atol=2e-3)
    # OpenCV sets confidences below a threshold of its own to zero.
    kept = theirs[:, 5:] > 0
    assert kept.mean() > 0.2
    np.testing.assert_allclose(ours[:, 4:][kept], theirs[:, 5:][kept], atol=2e-5)


def test_new_coordinates_equal_opencv(tmp_path):
    cfg = SMALL.replace("activation=linear\n[yolo]", "activation=logistic\n[yolo]\nnew_coords=1")
    network = randomise(Darknet(cfg), seed=5)
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        maps = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        ours = network.decode(maps, 64)[0].numpy()
    theirs = np.concatenate(opencv_boxes(cfg, network, image, tmp_path))
    np.testing.assert_allclose(ours[:, :4], theirs[:, :4] * 64, rtol=2e-4, atol=2e-3)
    kept = theirs[:, 5:] > 0
    np.testing.assert_allclose(ours[:, 4:][kept], theirs[:, 5:][kept], atol=2e-5)


def test_weights_file_round_trip():
    first, second = randomise(Darknet(SMALL), 1), randomise(Darknet(SMALL), 2)
    data = dump_weights(first, seen=12_345)
    assert load_weights(second, data) == 12_345
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_old_header_has_four_bytes_less():
    network = randomise(Darknet(SMALL), 1)
    modern = dump_weights(network)
    old = np.array([0, 1, 0, 77], "<i4").tobytes() + modern[20:]
    assert load_weights(network, old) == 77


def test_foreign_weights_are_refused_and_change_nothing():
    network = randomise(Darknet(SMALL), 1)
    before = dump_weights(network)
    with pytest.raises(ValueError, match="do not match"):
        load_weights(network, before + b"\0\0\0\0")
    with pytest.raises(ValueError, match="header"):
        load_weights(network, b"\0" * 8)
    assert dump_weights(network) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width=4", "expected"),
        ("[convolutional]\nfilters=1", r"\[net\]"),
        ("[net]\n[crop]", r"\[crop\] is not supported"),
        ("[net]\n[convolutional]\nfilters=4\nactivation=gelu", "gelu"),
        ("[net]\n[convolutional]\nfilters=four", "four"),
        ("[net]\n[convolutional]\nfilters=4\nactivation=linear", "no \\[yolo\\]"),
        ("[net]\n[convolutional]\nfilters=4\nactivation=linear\n[route]\nlayers=-3", "does not exist yet"),
        ("[net]\n[convolutional]\nfilters=4\nactivation=linear\n[yolo]\nanchors=1,2\nclasses=1", "reads 6 channels"),
        ("[net]\n[convolutional]\nfilters=4\nactivation=linear\n[yolo]\nanchors=1,2,3\nclasses=1", "pairs"),
    ],
)
def test_cfg_errors_name_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        Darknet(text)


def test_bad_arguments_are_refused():
    for arguments in ({"size": 100}, {"width": 0}, {"classes": 0}, {"anchors": ((1, 2),)}):
        with pytest.raises(ValueError, match=r"needed|multiple"):
            yolov4_cfg(**arguments)


def test_input_size_may_differ_from_the_cfg():
    network = randomise(yolov4_csp(width=0.125, size=96), 0)
    with torch.no_grad():
        maps = network(torch.zeros(2, 3, 64, 128))
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 16), (4, 8), (2, 4)]
    assert network.decode(maps, 128).shape == (2, 3 * (8 * 16 + 4 * 8 + 2 * 4), 5)


@given(
    column=st.integers(0, 7),
    row=st.integers(0, 7),
    x=st.floats(0.05, 0.95),
    y=st.floats(0.05, 0.95),
    w=st.floats(4, 200),
    h=st.floats(4, 200),
)
@settings(max_examples=50, deadline=None)
def test_head_decodes_what_was_encoded(column, row, x, y, w, h):
    head = YoloHead(((30.0, 40.0),), (0,), 1, 1.05)
    raw = torch.zeros(1, 6, 8, 8, dtype=torch.float64)
    stretched = torch.tensor([(v - 0.5) / 1.05 + 0.5 for v in (x, y)], dtype=torch.float64)
    raw[0, :2, row, column] = torch.logit(stretched)
    raw[0, 2:4, row, column] = torch.tensor([w / 30, h / 40], dtype=torch.float64).log()
    box = head.decode(raw, 16)[0, row * 8 + column, :4]
    expected = torch.tensor([(column + x) * 16, (row + y) * 16, w, h], dtype=torch.float64)
    torch.testing.assert_close(box, expected, rtol=1e-5, atol=1e-4)
