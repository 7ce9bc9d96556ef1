"""Deciding the scale: who is asked in which order, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.errors import ImplausibleScaleError, MissingScaleError, UsageError
from pathology.slide.open import open_reader
from pathology.slide.scale import COARSEST_MPP, FINEST_MPP, resolve_mpp
from pathology.testing.array_reader import ArrayReader


def slide(mpp=None, power=None):
    reader = ArrayReader(np.zeros((8, 8, 3), np.uint8), mpp=mpp)
    reader.objective_power = power
    return reader


def test_order():
    reader = slide(mpp=0.5, power=40)
    assert resolve_mpp(reader, option=0.25, manifest=0.3).source == "option"
    assert resolve_mpp(reader, manifest=0.3).source == "manifest"
    assert resolve_mpp(reader).source == "file"
    assert resolve_mpp(slide(power=40)).source == "objective power"


@pytest.mark.parametrize(("power", "mpp"), [(40, 0.25), (20, 0.5), (10, 1.0), (5, 2.0), (60, 1 / 6)])
def test_objective_power_with_a_warning(power, mpp):
    scale = resolve_mpp(slide(power=power))
    assert scale.mpp == pytest.approx(mpp)
    assert f"{power}x" in scale.warning


def test_nothing_known():
    with pytest.raises(MissingScaleError, match=r"--mpp.*mpp"):
        resolve_mpp(slide())
    with pytest.raises(MissingScaleError):
        resolve_mpp(slide(power=0.01))


def test_contradiction_is_said():
    assert "0.25" in resolve_mpp(slide(mpp=0.5), option=0.25).warning
    assert resolve_mpp(slide(mpp=0.499), option=0.5).warning is None


@given(st.floats(1e-6, 1e6))
def test_plausible_or_refused(stated):
    reader = slide(mpp=stated, power=20)
    if FINEST_MPP <= stated <= COARSEST_MPP:
        assert resolve_mpp(reader).mpp == stated
    else:
        with pytest.raises(ImplausibleScaleError, match="--mpp"):
            resolve_mpp(reader)
        assert resolve_mpp(reader, option=0.5).mpp == 0.5
        assert resolve_mpp(reader, manifest=0.5).mpp == 0.5


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-3, 500.0, float("nan"), float("inf")])
def test_a_given_value_is_checked_too(value):
    with pytest.raises(UsageError):
        resolve_mpp(slide(), option=value)
    with pytest.raises(UsageError, match="manifest"):
        resolve_mpp(slide(), manifest=value)


def test_the_real_file_with_the_wrong_unit(data_dir):
    with open_reader(data_dir / "slides" / "formats" / "CMU-1-Small-Region.jpeg.tiff") as reader:
        with pytest.raises(ImplausibleScaleError, match=r"0\.00499.*0\.499.*pixels per metre.*--mpp"):
            resolve_mpp(reader)
        assert resolve_mpp(reader, option=0.499).mpp == 0.499


def test_a_printing_resolution_is_named():
    with pytest.raises(ImplausibleScaleError, match="72 dots per inch"):
        resolve_mpp(slide(mpp=25400 / 72))


def test_a_lone_overview_level_is_named(data_dir):
    path = data_dir / "slides" / "formats" / "camelyon-multiframe.dcm"
    with open_reader(path) as reader, pytest.raises(ImplausibleScaleError, match="too coarse to see cells"):
        resolve_mpp(reader)
