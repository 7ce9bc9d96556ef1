"""Colours that can be told apart, with any of the common kinds of colour vision."""

import itertools

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from pathology.errors import UsageError
from pathology.outputs.figures.palette import CLASS_COLOURS, class_colours, colour_map, hex_to_rgb

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def seen(colours, matrix):
    rgb = np.array([hex_to_rgb(c) for c in colours]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ matrix.T
    linear = np.clip(linear, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("vision", VISION)
def test_class_colours_differ_for_every_kind_of_vision(vision):
    lab = seen(CLASS_COLOURS, VISION[vision])
    least = min(float(deltaE_ciede2000(a, b)) for a, b in itertools.combinations(lab, 2))
    assert least > 11  # about five times a just noticeable difference


def test_no_class_colour_is_grey_like_the_tissue_under_it():
    lab = seen(CLASS_COLOURS, VISION["normal"])
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 30


def test_a_card_brings_its_own_colours_or_gets_the_standard_ones(make):
    assert class_colours(make.card()) == CLASS_COLOURS[:3]
    own = ("#000001", "#000002", "#000003")
    assert class_colours(make.card(colours=own)) == own
    many = class_colours(make.card(classes=tuple(f"c{i}" for i in range(20))))
    assert len(many) == 20
    assert len(set(many)) == len(CLASS_COLOURS) == 16


def test_hex():
    assert hex_to_rgb("#0a10ff") == (10, 16, 255)
    for bad in ("0a10ff", "#0a10f", "#gggggg", "red"):
        with pytest.raises(UsageError, match="#rrggbb"):
            hex_to_rgb(bad)


def test_colour_map_gets_lighter_with_probability_and_clips():
    colours = colour_map("viridis", np.linspace(0, 1, 101, dtype=np.float32))
    lightness = rgb2lab(colours / 255)[:, 0]
    assert (np.diff(lightness) > 0).all()
    assert np.array_equal(colour_map("viridis", [-1.0, float("nan"), 2.0]), colours[[0, 0, -1]])
    with pytest.raises(UsageError, match="nonsense"):
        colour_map("nonsense", [0.5])
