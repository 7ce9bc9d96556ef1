import pytest
import torch

from pathology.networks.acgan import Discriminator, Generator
from pathology.networks.petct import two_stream_petct
from pathology.networks.radiology_registry import build_radiology_network, radiology_architectures
from pathology.networks.unet import attention_unet, unet


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_registry_builds_every_name():
    with torch.device("meta"):
        for name in radiology_architectures():
            assert parameters(build_radiology_network(name, 2)) > 10_000
    with pytest.raises(LookupError, match="'lenet'"):
        build_radiology_network("lenet", 2)
    with pytest.raises(ValueError, match="at least 1"):
        build_radiology_network("unet", 0)
    with pytest.raises(TypeError):
        build_radiology_network("unet", 1, colour="red")


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"dimensions": 2, "channels": 1}, (1, 1, 32, 40)),
        ({"dimensions": 2, "channels": 5}, (1, 5, 32, 40)),
        ({"dimensions": 3, "channels": 2, "strides": ((1, 2, 2), (2, 2, 2), 2)}, (1, 2, 8, 32, 40)),
    ],
)
def test_unets_keep_the_grid(options, shape):
    network = unet(1, widths=(4, 8, 16, 32), **options).eval()
    assert network(torch.zeros(shape)).shape == (1, 1, *shape[2:])


def test_unet_parameters_by_hand():
    """One level, plain convolutions: 3x3 down, 3x3 bottom, 3x3 transposed up; PReLU has one parameter."""
    network = unet(1, 1, dimensions=2, widths=(2, 4), strides=(2,), residual_units=0)
    down = 1 * 2 * 9 + 2 + 1
    bottom = 2 * 4 * 9 + 4 + 1
    up = (4 + 2) * 1 * 9 + 1
    assert parameters(network) == down + bottom + up


def test_attention_unet_keeps_the_grid():
    network = attention_unet(1, 3, widths=(4, 8, 16)[:3], strides=(2, 2)).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def two_stream_count(classes, widths):
    total, before = 0, 0
    for depth, w in enumerate(widths):
        inside = 1 if depth == 0 else before
        total += 2 * (27 * inside * w + 27 * w * w + 4 * w)  # two streams: two convolutions, two normalisations
        total += (2 * w + before) * w + 2 * w
        before = w
    return total + 2 * sum(widths) * classes + classes


def test_two_stream_parameters():
    assert parameters(two_stream_petct(2)) == two_stream_count(2, (16, 32, 64)) == 444_290
    assert parameters(two_stream_petct(3, (4, 8))) == two_stream_count(3, (4, 8))


def test_both_streams_reach_the_output_at_every_depth():
    torch.manual_seed(0)
    network = two_stream_petct(2, (4, 8, 8)).eval()
    images = torch.randn(1, 2, 16, 16, 16, requires_grad=True)
    network(images)[0, 0].backward()
    assert (images.grad.abs().sum(dim=(2, 3, 4)) > 0).all()
    for fusion in network.fusion:
        assert fusion[0].weight.shape[1] >= 2 * fusion[0].weight.shape[0]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_acgan_shapes_and_parameters(size):
    steps = {16: 2, 32: 3, 64: 4}[size]
    generator, discriminator = Generator(3, 3, size, noise=10, width=4), Discriminator(3, 3, size, width=4)
    images = generator(torch.randn(2, 10), torch.tensor([0, 2]))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    source, label = discriminator(images)
    assert source.shape == (2,)
    assert label.shape == (2, 3)
    widths = [4 * 2**s for s in range(steps)]
    up = 3 * 10 + 10 * widths[-1] * 16 + 2 * widths[-1]
    up += sum(a * b * 16 + 2 * b for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
    up += widths[0] * 3 * 16 + 3
    assert parameters(generator) == up
    down = sum(a * b * 16 + b for a, b in zip([3, *widths[:-1]], widths, strict=True))
    assert parameters(discriminator) == down + (widths[-1] * 16 + 1) + 3 * (widths[-1] * 16 + 1)
    with pytest.raises(ValueError, match="got 50"):
        Generator(2, size=50)


def test_the_class_changes_the_image():
    torch.manual_seed(0)
    generator = Generator(2, 1, 16, noise=8, width=4).eval()
    noise = torch.randn(1, 8)
    first, second = generator(noise, torch.tensor([0])), generator(noise, torch.tensor([1]))
    assert not torch.allclose(first, second)
