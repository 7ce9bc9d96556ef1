"""Auxiliary-classifier GAN (Odena, Olah and Shlens 2017, arXiv 1610.09585) for small images.

The generator takes noise and a class; the discriminator predicts real or fake *and* the class.  Layer sizes of Gao et
al. 2021 are not public; these follow the DCGAN pattern (Radford 2016, arXiv 1511.06434): strided convolutions of
size 4, batch normalisation in the generator, leaky ReLU and dropout in the discriminator, weights drawn from
N(0, 0.02).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Discriminator", "Generator"]


class Generator(nn.Module):
    """Map noise and class to an image in -1..1.

    Parameters
    ----------
    classes
        Number of classes.
    channels
        Image channels.
    size
        Side of the image: 16, 32, 64 or 128.
    noise
        Length of the noise vector.
    width
        Channels of the last hidden layer; each earlier layer has twice as many.
    """

    def __init__(self, classes: int, channels: int = 3, size: int = 64, noise: int = 100, width: int = 32) -> None:
        super().__init__()
        steps = _steps(size)
        self.noise = noise
        self.embedding = nn.Embedding(classes, noise)
        top = width * 2 ** (steps - 1)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(noise, top, 4, bias=False),
            nn.BatchNorm2d(top),
            nn.ReLU(inplace=True),
        ]
        for step in range(steps - 1, 0, -1):
            here, below = width * 2**step, width * 2 ** (step - 1)
            layers += [
                nn.ConvTranspose2d(here, below, 4, 2, 1, bias=False),
                nn.BatchNorm2d(below),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Generate images: noise ``(B, noise)`` and classes ``(B,)`` to ``(B, channels, size, size)``.

        The class embedding multiplies the noise, as in the authors' public description of the model.
        """
        code = noise * self.embedding(labels)
        images: Tensor = self.layers(code[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """Classify an image as real or generated, and predict its class.

    Parameters
    ----------
    classes, channels, size
        As in :class:`Generator`.
    width
        Channels of the first layer; each later layer has twice as many.
    dropout
        Dropout rate after every layer; prevents memorising small training sets.
    """

    def __init__(self, classes: int, channels: int = 3, size: int = 64, width: int = 32, dropout: float = 0.3) -> None:
        super().__init__()
        steps = _steps(size)
        layers: list[nn.Module] = []
        before = channels
        for step in range(steps):
            after = width * 2**step
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Dropout2d(dropout)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.source = nn.Linear(before * 16, 1)
        self.label = nn.Linear(before * 16, classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(B, channels, size, size)`` to logits of being real ``(B,)`` and of the classes ``(B, classes)``."""
        features = self.layers(images)
        return self.source(features)[:, 0], self.label(features)


def _steps(size: int) -> int:
    steps = {16: 2, 32: 3, 64: 4, 128: 5}.get(size)
    if steps is None:
        raise ValueError(f"size: expected 16, 32, 64 or 128, got {size}")
    return steps


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        torch.nn.init.zeros_(module.bias)
