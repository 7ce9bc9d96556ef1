"""The heatmap lies exactly on the tissue, in the legend's colours, beside a true scale bar."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pathology.errors import OutputError, UsageError
from pathology.outputs.figures.heatmap import build_heatmap
from pathology.outputs.figures.overlay import (
    CLASS_MAP_OPACITY,
    LUMINANCE,
    OPACITY,
    compose_overlay,
    paint,
    prediction_opacity,
    scale_bar,
    write_overlay,
)
from pathology.outputs.figures.palette import class_colours, colour_map, hex_to_rgb
from pathology.outputs.figures.thumbnail import SlidePicture

DIMENSIONS = (1000, 800)
EVERYWHERE = np.ones((8, 10), bool)


def one_patch(x, y, extent, p=(0.0, 1.0), stride=None):
    return build_heatmap(
        np.array([[x, y]], np.int32),
        np.array([p], np.float32),
        np.ones(1, np.float32),
        classes=["a", "b", "c"][: len(p)],
        extent=extent,
        stride=stride or extent,
    )


def picture_of(dimensions, size, seed=0):
    pixels = np.random.default_rng(seed).integers(120, 255, (size[1], size[0], 3)).astype(np.uint8)
    return SlidePicture(pixels, (dimensions[0] / size[0], dimensions[1] / size[1]))


def changed(before, after):
    """Bounding box ``(left, top, right, bottom)`` of the pixels that differ, and how many do."""
    different = (before != after).any(axis=2)
    ys, xs = np.nonzero(different)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), int(different.sum())


@pytest.mark.parametrize("size", [(250, 200), (1000, 800), (333, 267), (77, 61), (1100, 790)])
@pytest.mark.parametrize(("x", "y", "extent"), [(300, 200, 100), (0, 0, 50), (900, 700, 100), (608, 304, 76)])
def test_a_square_lies_where_its_patch_is(size, x, y, extent):
    picture = picture_of(DIMENSIONS, size)
    painted = paint(picture, one_patch(x, y, extent), EVERYWHERE, DIMENSIONS, colours=("#000000", "#0072b2"))
    (left, top, right, bottom), count = changed(picture.pixels, painted)
    sx, sy = picture.scale
    for edge, scale, true in ((left, sx, x), (right, sx, x + extent), (top, sy, y), (bottom, sy, y + extent)):
        assert abs(edge * scale - true) <= scale / 2 + 1e-9  # half a picture pixel: nothing can be nearer
    assert count == (right - left) * (bottom - top)


def test_a_square_lies_right_at_a_scale_that_is_no_whole_number():
    # Patch 37 of a row, at 0.4567 µm: 224 px at 1 µm are 490.47... level-0 pixels.
    extent = 224 / 0.4567
    corner = int(np.floor(37 * extent + 0.5))
    dimensions = (30_000, 5_000)
    picture = picture_of(dimensions, (1500, 250))
    heatmap = one_patch(corner, 0, extent)
    painted = paint(picture, heatmap, EVERYWHERE, dimensions, colours=("#000000", "#0072b2"))
    (left, _, right, _), _ = changed(picture.pixels, painted)
    assert abs(left * 20 - corner) <= 10.5
    assert abs(right * 20 - (corner + extent)) <= 10.5


def test_colour_stays_on_the_tissue_at_sub_cell_accuracy():
    # Tissue is the left half of one cell; the mask's edge at x = 450 is inside the patch.
    tissue = np.zeros((80, 100), bool)
    tissue[:, :45] = True
    picture = picture_of(DIMENSIONS, (1000, 800))
    painted = paint(picture, one_patch(400, 200, 100), tissue, DIMENSIONS, colours=("#000000", "#0072b2"))
    (left, top, right, bottom), _ = changed(picture.pixels, painted)
    assert (left, top, right, bottom) == (400, 200, 450, 300)


def test_a_round_piece_of_tissue_keeps_its_area():
    y, x = np.mgrid[:80, :100] + 0.5
    tissue = (x - 50) ** 2 + (y - 40) ** 2 < 30**2
    picture = picture_of(DIMENSIONS, (1000, 800))
    painted = paint(picture, one_patch(0, 0, 1000), tissue, DIMENSIONS, colours=("#000000", "#0072b2"))
    _, count = changed(picture.pixels, painted)
    assert count == pytest.approx(np.pi * 300**2, rel=0.005)


def test_gaps_between_patches_stay_unpainted():
    picture = picture_of(DIMENSIONS, (1000, 800))
    heatmap = one_patch(200, 200, 50, stride=200)
    painted = paint(picture, heatmap, EVERYWHERE, DIMENSIONS, colours=("#000000", "#0072b2"))
    assert changed(picture.pixels, painted) == ((200, 200, 250, 250), 2500)


def test_what_hangs_over_the_slide_is_not_painted():
    # A picture a little larger than the slide, as a padded thumbnail is.
    picture = SlidePicture(picture_of((1010, 810), (1010, 810)).pixels, (1.0, 1.0))
    painted = paint(picture, one_patch(900, 750, 150), EVERYWHERE, DIMENSIONS, colours=("#000000", "#0072b2"))
    assert changed(picture.pixels, painted)[0] == (900, 750, 1000, 800)


@pytest.mark.parametrize("p", [(0.0, 1.0), (0.4, 0.6), (0.7, 0.3), (0.5, 0.5)])
def test_predicted_class_colour_and_opacity(p):
    picture = picture_of(DIMENSIONS, (1000, 800))
    colours = ("#e69f00", "#0072b2")
    painted = paint(picture, one_patch(300, 200, 100, p), EVERYWHERE, DIMENSIONS, colours=colours)
    leader = int(p[1] > p[0])
    opacity = OPACITY[0] + (OPACITY[1] - OPACITY[0]) * (max(p) - 0.5) / 0.5
    grey = picture.pixels.astype(float) @ LUMINANCE.astype(float)
    expected = grey[..., None] * (1 - opacity) + np.array(hex_to_rgb(colours[leader])) * opacity
    inside = (slice(200, 300), slice(300, 400))
    assert np.abs(painted[inside] - expected[inside]).max() <= 0.51
    outside = np.ones((800, 1000), bool)
    outside[inside] = False
    assert np.array_equal(painted[outside], picture.pixels[outside])


def test_one_class_is_shown_by_colour_at_equal_opacity():
    picture = picture_of(DIMENSIONS, (1000, 800))
    heatmap = one_patch(300, 200, 100, (0.7, 0.3))
    painted = paint(picture, heatmap, EVERYWHERE, DIMENSIONS, colours=("#000000", "#000000"), only="b")
    grey = picture.pixels.astype(float) @ LUMINANCE.astype(float)
    colour = colour_map("viridis", [heatmap.values[1, 0, 0]])[0]
    expected = grey[..., None] * (1 - CLASS_MAP_OPACITY) + colour * CLASS_MAP_OPACITY
    inside = (slice(200, 300), slice(300, 400))
    assert np.abs(painted[inside] - expected[inside]).max() <= 0.51


def test_histology_stays_visible_under_the_strongest_colour():
    assert OPACITY[1] <= 0.6
    assert CLASS_MAP_OPACITY <= 0.6
    values = prediction_opacity(np.array([1 / 3, 2 / 3, 1, np.nan], np.float32), 3)
    assert values == pytest.approx([OPACITY[0], sum(OPACITY) / 2, OPACITY[1], 0], abs=1e-6)
    assert prediction_opacity(np.array([0, 1], np.float32), 1) == pytest.approx(OPACITY, abs=1e-6)


def test_without_any_patch_the_picture_is_unchanged():
    picture = picture_of(DIMENSIONS, (250, 200))
    empty = build_heatmap(
        np.empty((0, 2), np.int32),
        np.empty((0, 2), np.float32),
        np.empty(0, np.float32),
        classes=["a", "b"],
        extent=10,
        stride=10,
    )
    for only in (None, "a"):
        painted = paint(picture, empty, EVERYWHERE, DIMENSIONS, colours=("#000000", "#000001"), only=only)
        assert np.array_equal(painted, picture.pixels)
        assert painted is not picture.pixels


def test_wrong_class_and_wrong_number_of_colours_are_refused():
    picture, heatmap = picture_of(DIMENSIONS, (250, 200)), one_patch(0, 0, 100)
    with pytest.raises(UsageError, match="'z'"):
        paint(picture, heatmap, EVERYWHERE, DIMENSIONS, colours=("#000000", "#000001"), only="z")
    with pytest.raises(UsageError, match="expected 2"):
        paint(picture, heatmap, EVERYWHERE, DIMENSIONS, colours=("#000000",))


@given(width=st.integers(8, 20_000), mpp=st.floats(0.02, 500))
def test_scale_bars_are_round_and_about_a_quarter_wide(width, mpp):
    bar = scale_bar(width, mpp)
    assert bar.pixels * mpp == pytest.approx(bar.micrometres)
    assert width / 10 * 0.999 <= bar.pixels <= width / 4 * 1.001
    digits = f"{bar.micrometres:.6e}".split("e")[0].rstrip("0").rstrip(".")
    assert digits in {"1", "2", "5"}


def test_scale_bar_labels():
    assert scale_bar(1000, 1.0).label == "200 µm"
    assert scale_bar(1000, 8.0).label == "2 mm"
    assert scale_bar(1000, 2.0).label == "500 µm"
    assert scale_bar(40, 0.05).label == "0.5 µm"


def composed(make, only=None, size=(1000, 800), longest=1600, classes=3, **changes):
    card = make.card(classes=tuple(f"class {i}" for i in range(classes)))
    result = make.result(classes=card.classes, width=size[0], height=size[1], **changes)
    picture = picture_of(size, size)
    heatmap = build_heatmap(
        np.array([[0, 0]], np.int32),
        np.full((1, classes), 1 / classes, np.float32),
        np.ones(1, np.float32),
        classes=card.classes,
        extent=max(size) / 2,
        stride=max(size) / 2,
    )
    sheet = compose_overlay(result, card, picture, heatmap, np.ones((4, 5), bool), only=only, longest=longest)
    shown = picture.shown(size, longest)
    painted = paint(shown, heatmap, np.ones((4, 5), bool), size, colours=class_colours(card), only=only)
    return sheet, painted


def find(sheet, painted):
    """Top left corner of the painted slide on the sheet."""
    height, width = painted.shape[:2]
    for offset in range(1, 60):
        if np.array_equal(sheet[offset : offset + height, offset : offset + width], painted):
            return offset
    raise AssertionError("the painted slide is not on the sheet")


@pytest.mark.parametrize("only", [None, "class 1"])
@pytest.mark.parametrize("size", [(1000, 800), (500, 2400), (2000, 400), (20, 60), (3, 1)])
def test_the_sheet_holds_the_painted_slide_and_a_true_scale_bar(make, size, only):
    sheet, painted = composed(make, only, size)
    height, width = painted.shape[:2]
    offset = find(sheet, painted)
    # The bar is the first dark run under the picture's frame.
    below = sheet[offset + height + 2 :, offset : offset + width]
    dark = (below < 60).all(axis=2)
    row = dark[np.nonzero(dark[:, 0])[0][0]]
    pixels = int(row.argmin()) if not row.all() else width
    bar = scale_bar(width, 0.5 * size[0] / width)
    assert abs(pixels - bar.pixels) <= 0.5 + 1e-9


def test_every_class_has_its_swatch(make):
    sheet, painted = composed(make, classes=12)
    legend = sheet[:, find(sheet, painted) + painted.shape[1] + 2 :]
    for colour in class_colours(make.card(classes=tuple(f"class {i}" for i in range(12)))):
        swatch = (legend == hex_to_rgb(colour)).all(axis=2).sum()
        assert swatch > 200, colour


def test_a_chosen_width_is_kept(make):
    _, painted = composed(make, size=(3000, 2000), longest=700)
    assert painted.shape[:2] == (467, 700)


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300,
        "Präparat 🧬👩‍🔬 標本 № 7",
        "line\nbreak\ttab",
        "\udcff\udcfe.svs",
        "علامة",
        " ",
        "a" * 40 + " " + "b" * 90,
    ],
)
def test_odd_names_neither_fail_nor_warn_nor_move_the_picture(make, name):
    sheet, painted = composed(make, slide_id=name)
    assert find(sheet, painted)


def test_abstained_without_scale_or_size(make):
    sheet, painted = composed(
        make, status="abstained", abstained_because="p is 0.4, below 0.5", mpp=None, classes=2, prediction=None
    )
    assert find(sheet, painted)
    with pytest.raises(UsageError, match="size"):
        compose_overlay(
            make.result(width=None),
            make.card(),
            picture_of(DIMENSIONS, (250, 200)),
            one_patch(0, 0, 100, (0.2, 0.3, 0.5)),
            EVERYWHERE,
        )


def test_threads_draw_the_same_picture(make):
    expected, _ = composed(make)
    drawn = []
    threads = [threading.Thread(target=lambda: drawn.append(composed(make)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 4
    assert all(np.array_equal(sheet, expected) for sheet in drawn)


def test_the_file_is_a_png_and_an_unwritable_place_is_an_error(make, tmp_path):
    card, result = make.card(), make.result()
    picture, heatmap = picture_of(DIMENSIONS, (1000, 800)), one_patch(0, 0, 100, (0.2, 0.3, 0.5))
    heatmap = replace(heatmap, classes=card.classes)
    path = tmp_path / "new folder" / "overlay.png"
    write_overlay(path, result, card, picture, heatmap, EVERYWHERE)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), compose_overlay(result, card, picture, heatmap, EVERYWHERE))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file stands where a folder should be"):
        write_overlay(tmp_path / "file" / "overlay.png", result, card, picture, heatmap, EVERYWHERE)
