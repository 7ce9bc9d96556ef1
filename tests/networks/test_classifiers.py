"""The classifiers, held against published counts and torchvision's own networks."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from pathology.networks.registry import architectures, build_network


def learnable(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("architecture", "classes", "options", "expected"),
    [
        # Torchvision's documentation prints 7,978,856 and 27,161,264 at 1000 classes.
        ("densenet121", 1000, {}, 7_978_856),
        ("densenet121", 3, {}, 6_956_931),
        ("densenet121", 5, {}, 6_958_981),
        ("densenet121-foersch", 5, {}, 8_010_629),
        ("inception-v3", 1000, {}, 27_161_264),
        ("inception-v3", 1000, {"aux_logits": False}, 23_834_568),
    ],
)
def test_learnable_parameters(architecture, classes, options, expected):
    assert learnable(build_network(architecture, classes, **options)) == expected


def test_plain_counts_equal_torchvisions_own_networks():
    ours = build_network("densenet121", 3)
    theirs = torchvision.models.densenet121(weights=None, num_classes=3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert learnable(ours) == learnable(theirs)
    ours = build_network("inception-v3", 3)
    theirs = torchvision.models.inception_v3(weights=None, num_classes=3, aux_logits=True, init_weights=False)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert learnable(ours) == learnable(theirs)


@pytest.mark.parametrize(("architecture", "side"), [("densenet121", 64), ("inception-v3", 96)])
def test_torchvision_gives_the_same_logits_with_the_same_weights(architecture, side):
    torch.manual_seed(1)
    ours = build_network(architecture, 3).eval()
    theirs = {
        "densenet121": lambda: torchvision.models.densenet121(weights=None, num_classes=3),
        "inception-v3": lambda: torchvision.models.inception_v3(
            weights=None, num_classes=3, aux_logits=True, init_weights=False
        ),
    }[architecture]()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    pixels = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        logits = ours(pixels)
        assert logits.shape == (2, 3)
        torch.testing.assert_close(logits, theirs.eval()(pixels))


class TestFoersch:
    def test_layer_order_is_fastais(self):
        body, head = build_network("densenet121-foersch", 5)
        (features,) = body
        assert [name for name, _ in features.named_children()] == [
            *("conv0", "norm0", "relu0", "pool0"),
            *("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3", "transition3"),
            *("denseblock4", "norm5"),
        ]
        assert [type(layer).__name__ for layer in head] == [
            *("AdaptiveConcatPool", "Flatten", "BatchNorm1d", "Dropout", "Linear"),
            *("ReLU", "BatchNorm1d", "Dropout", "Linear"),
        ]
        assert (head[2].num_features, head[4].in_features, head[4].out_features) == (2048, 2048, 512)
        assert (head[6].num_features, head[8].in_features, head[8].out_features) == (512, 512, 5)
        assert (head[3].p, head[7].p) == (0.25, 0.5)

    def test_body_and_head_have_the_published_shares(self):
        body, head = build_network("densenet121-foersch", 5)
        assert (learnable(body), learnable(head)) == (6_953_856, 1_056_773)

    def test_features_are_pooled_without_a_relu_maximum_first(self):
        torch.manual_seed(0)
        network = build_network("densenet121-foersch", 5).eval()
        body, head = network
        pixels = torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            features = body(pixels)
            assert (features < 0).any(), "a ReLU stands after norm5"
            pooled = head[1](head[0](features))
            maximum = nn.functional.adaptive_max_pool2d(features, 1).flatten(1)
            mean = nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)
            torch.testing.assert_close(pooled, torch.cat([maximum, mean], dim=1))
            assert network(pixels).shape == (2, 5)

    def test_the_head_starts_from_kaiming_normal_weights(self):
        torch.manual_seed(0)
        head = build_network("densenet121-foersch", 5)[1]
        # He et al. 2015: standard deviation sqrt(2 / fan in).
        assert head[4].weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.01)
        assert head[8].weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)
        assert not head[4].bias.any()
        assert not head[8].bias.any()


class TestInception:
    def test_auxiliary_logits_in_training_only(self):
        network = build_network("inception-v3", 3)
        pixels = torch.randn(2, 3, 299, 299)
        logits, auxiliary = network.train()(pixels)
        assert logits.shape == auxiliary.shape == (2, 3)
        with torch.inference_mode():
            assert network.eval()(pixels).shape == (2, 3)

    def test_weights_start_from_a_cut_normal_distribution(self):
        torch.manual_seed(0)
        network = build_network("inception-v3", 3)
        assert network.Mixed_7c.branch1x1.conv.weight.std().item() == pytest.approx(0.1, rel=0.02)
        assert network.AuxLogits.fc.weight.std().item() == pytest.approx(0.001, rel=0.1)


class TestRegistry:
    def test_every_name_is_known_without_importing_torch(self):
        code = (
            "import sys; from pathology.networks.registry import architectures;"
            "architectures(); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"
        assert {"densenet121", "densenet121-foersch", "inception-v3"} <= set(architectures())

    def test_unknown_name_lists_the_known(self):
        with pytest.raises(LookupError, match=r"'resnet999'.*densenet121"):
            build_network("resnet999", 3)

    def test_unknown_option(self):
        with pytest.raises(TypeError, match="depth"):
            build_network("densenet121", 3, depth=7)

    def test_no_classes(self):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            build_network("densenet121", 0)
