import pytest
import torch

from pathology.networks.torchvision_classifiers import CLASSIFIERS, classifier_features

COUNTS = {
    "alexnet": (61_100_840, 57_012_034, 4096),
    "vgg19": (143_667_240, 139_578_434, 4096),
    "resnet18": (11_689_512, 11_177_538, 512),
    "resnet34": (21_797_672, 21_285_698, 512),
    "resnet50": (25_557_032, 23_512_130, 2048),
    "densenet161": (28_681_000, 26_476_418, 2208),
}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_parameters(name):
    with torch.device("meta"):
        assert parameters(CLASSIFIERS[name](1000)) == COUNTS[name][0]
        assert parameters(CLASSIFIERS[name](2)) == COUNTS[name][1]


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "resnet50", "densenet161"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_features_are_what_the_classifier_sees(name, channels):
    torch.manual_seed(0)
    network = CLASSIFIERS[name](2, channels=channels).eval()
    images = torch.randn(2, channels, 64, 64)
    with torch.no_grad():
        features = classifier_features(network).eval()(images)
        assert features.shape == (2, COUNTS[name][2])
        last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
        torch.testing.assert_close(last(features), network(images), atol=1e-5, rtol=1e-5)


def test_features_of_another_network_are_refused():
    with pytest.raises(TypeError, match="Linear"):
        classifier_features(torch.nn.Linear(2, 2))
