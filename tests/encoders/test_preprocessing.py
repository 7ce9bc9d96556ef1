"""Preprocessing against torchvision's transforms as the authors publish them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from pathology.encoders.network import PatchEncoder
from pathology.encoders.preprocessing import encoder_input
from pathology.encoders.published import PUBLISHED


@pytest.mark.parametrize("encoder", PUBLISHED, ids=lambda encoder: encoder.name)
@pytest.mark.parametrize("side", [224, 256, 512])
def test_equals_the_authors_transform(encoder, side):
    rng = np.random.default_rng(side)
    patches = rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    mode = {"bilinear": transforms.InterpolationMode.BILINEAR, "bicubic": transforms.InterpolationMode.BICUBIC}
    reference = transforms.Compose(
        [
            transforms.Resize(encoder.resize, interpolation=mode[encoder.interpolation]),
            transforms.CenterCrop(encoder.input),
            transforms.ToTensor(),
            transforms.Normalize(encoder.mean, encoder.std),
        ]
    )
    expected = torch.stack([reference(Image.fromarray(patch)) for patch in patches])
    network = PatchEncoder(nn.Identity(), encoder.mean, encoder.std)
    with ThreadPoolExecutor(2) as pool:
        found = network.normalised(torch.from_numpy(encoder_input(patches, encoder, pool).copy()))
    assert (found - expected).abs().max() == 0


def test_nothing_is_copied_where_nothing_is_to_be_done():
    patches = np.zeros((2, 224, 224, 3), np.uint8)
    virchow = next(encoder for encoder in PUBLISHED if encoder.name == "virchow")
    assert encoder_input(patches, virchow) is patches
