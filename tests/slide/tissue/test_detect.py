"""Tissue against constructed truth, and on real fields that are all tissue."""

import io

import numpy as np
import pytest
from PIL import Image

from pathology.errors import UsageError
from pathology.settings import TissueSettings
from pathology.slide.tissue.detect import ExclusionReason, Glass, estimate_glass, find_tissue, optical_density
from pathology.testing.planted import PlantedSlide, average_down, blob, synthetic_tissue

MPP = 4.0
SHAPE = (600, 800)  # 2.4 x 3.2 mm
TINTS = {
    "white": (245, 244, 245), "grey": (205, 205, 207), "dim": (175, 176, 174), "yellow": (243, 238, 215),
    "blue": (222, 232, 243), "green": (225, 238, 226), "pink": (240, 231, 238),
}  # fmt: skip


def at_mask_scale(slide):
    """The slide as JPEG at 4 µm/px averaged to 8 µm/px, with the truth."""
    buffer = io.BytesIO()
    Image.fromarray(slide.pixels()).save(buffer, "JPEG", quality=80, subsampling=0)
    image = np.asarray(Image.open(buffer).convert("RGB"))
    truth = {name: average_down(where, 2) >= 0.5 for name, where in slide.truth.items()}
    return np.rint(average_down(image, 2)).astype(np.uint8), truth


def planted(seed, colour=TINTS["white"], *, density=1.0, share=0.3, vignette=0.0):
    slide = PlantedSlide.of_glass(SHAPE, MPP, seed, colour)
    where = blob(SHAPE, slide.rng, share=share, smoothness=60)
    slide.tissue(where, synthetic_tissue((300, 300), slide.rng, mpp=MPP, density=density))
    slide.vignette(vignette)
    return slide


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("density", [1.0, 0.15], ids=["stained", "pale"])
@pytest.mark.parametrize("tint", TINTS)
def test_tissue_is_found_on_glass_of_any_tint(tint, density):
    for seed, vignette in ((1, 0.0), (2, 0.12)):
        image, truth = at_mask_scale(planted(seed, TINTS[tint], density=density, vignette=vignette))
        found = find_tissue(image, 8.0)
        assert dice(found.mask, truth["tissue"]) > 0.93
        assert np.abs(np.subtract(found.glass.colour, TINTS[tint])).max() < 20


def test_edges_dust_and_coverslip_are_no_tissue():
    slide = planted(3, share=0.15)
    slide.slide_edge(0.25, 0.3)
    slide.line((0.6, 0), (2.0, 2.4), 20, 0.3)
    slide.line((0, 2.0), (3.2, 2.05), 30, 0.4)
    slide.dust(30)
    image, truth = at_mask_scale(slide)
    found = find_tissue(image, 8.0)
    assert dice(found.mask, truth["tissue"]) > 0.93
    outside = truth["edge"] & ~truth["tissue"]
    assert np.count_nonzero(found.mask & outside) < 0.15 * np.count_nonzero(outside)
    assert found.counts["edge"] > 0.4 * np.count_nonzero(outside)


@pytest.mark.parametrize(
    "ink",
    [(45, 60, 150), (30, 120, 70), (90, 160, 130), (38, 38, 44), (235, 120, 40), (200, 40, 50), (218, 110, 142)],
    ids=["blue", "green", "teal", "black", "orange", "red", "pink"],
)
def test_a_stroke_on_glass_is_ink(ink):
    slide = PlantedSlide.of_glass(SHAPE, MPP, 4, TINTS["white"])
    where = np.zeros(SHAPE, bool)
    where[150:450, 60:300] = True
    slide.tissue(where, synthetic_tissue((300, 300), slide.rng, mpp=MPP))
    slide.pen(ink, np.array([[1.7, 0.3], [2.6, 1.0], [2.0, 2.0]]), 0.6)
    image, truth = at_mask_scale(slide)
    found = find_tissue(image, 8.0)
    assert dice(found.mask, truth["tissue"]) > 0.95
    pen = found.excluded == ExclusionReason.PEN
    assert np.count_nonzero(pen & truth["pen"]) > 0.95 * np.count_nonzero(truth["pen"])
    assert not (pen & truth["tissue"]).any()


@pytest.mark.parametrize("shape", [(4, 4), (28, 28), (128, 128)])
def test_a_field_without_glass_is_all_tissue(shape):
    rng = np.random.default_rng(5)
    image = synthetic_tissue((shape[0] * 2, shape[1] * 2), rng, mpp=4.0) * 244
    found = find_tissue(np.rint(average_down(image.astype(np.uint8), 2)).astype(np.uint8), 8.0)
    assert found.mask.mean() > 0.97
    assert not found.glass.seen


def test_empty_glass_holds_no_tissue():
    for seed, colour in enumerate(TINTS.values()):
        slide = PlantedSlide.of_glass(SHAPE, MPP, seed, colour)
        slide.vignette(0.1)
        slide.dust(20)
        slide.truth["tissue"] = np.zeros(SHAPE, bool)
        assert not find_tissue(at_mask_scale(slide)[0], 8.0).mask.any()


def test_unscanned_white_and_black_parts_are_left_out():
    image, truth = at_mask_scale(planted(6, (225, 224, 225), share=0.3))
    image[:, :100] = 255
    image[:, -60:] = 0
    inside = np.zeros(truth["tissue"].shape, bool)
    inside[:, 100:-60] = True
    found = find_tissue(image, 8.0)
    assert dice(found.mask & inside, truth["tissue"] & inside) > 0.93
    assert np.count_nonzero(found.mask & ~inside) < 0.01 * inside.size


def test_small_pieces_and_holes_follow_the_settings():
    slide = PlantedSlide.of_glass(SHAPE, MPP, 7, TINTS["white"])
    where = np.zeros(SHAPE, bool)
    where[100:500, 100:400] = True
    where[260:330, 220:290] = False  # a hole of 0.078 mm²
    where[300:330, 600:630] = True  # a piece of 0.014 mm²
    slide.tissue(where, synthetic_tissue((300, 300), slide.rng, mpp=MPP))
    image, _ = at_mask_scale(slide)
    piece = np.s_[152:163, 302:313]
    hole = np.s_[140:155, 120:135]
    usual = find_tissue(image, 8.0)
    assert not usual.mask[piece].any()
    assert (usual.excluded[piece] == ExclusionReason.FRAGMENT).all()
    assert not usual.mask[hole].all()
    generous = find_tissue(image, 8.0, TissueSettings(min_area_mm2=0.01, max_hole_mm2=0.1))
    assert generous.mask[piece].all()
    assert generous.mask[hole].all()


def test_counts_and_area_add_up():
    image, _ = at_mask_scale(planted(8))
    found = find_tissue(image, 8.0)
    assert sum(found.counts.values()) == found.mask.size
    assert found.counts["tissue"] == np.count_nonzero(found.mask)
    assert found.area_mm2 == pytest.approx(found.counts["tissue"] * 64e-6)
    np.testing.assert_array_equal(found.mask, found.excluded == ExclusionReason.NOTHING)


def test_optical_density_is_zero_on_glass_and_additive():
    glass = Glass((239.0, 229.0, 219.0), seen=True)
    field = np.array([[[239, 229, 219], [23, 22, 21]]], np.uint8)
    np.testing.assert_allclose(optical_density(field, glass), [[[0, 0, 0], [1, 1, 1]]], atol=1e-6)


def test_rows_of_a_large_image_join_without_seams():
    # 1,200 rows are classified in three bands; the same image turned upside down must give the same mask.
    rng = np.random.default_rng(9)
    slide = PlantedSlide.of_glass((1200, 200), 8.0, 9, TINTS["white"])
    slide.tissue(blob((1200, 200), rng, share=0.4, smoothness=20), synthetic_tissue((200, 200), rng, mpp=8.0))
    image = slide.pixels(0.3)
    np.testing.assert_array_equal(find_tissue(image, 8.0).mask, find_tissue(image[::-1].copy(), 8.0).mask[::-1])


@pytest.mark.parametrize(("array", "mpp"), [(np.zeros((4, 4), np.uint8), 8), (np.zeros((4, 4, 3)), 8), (None, 0)])
def test_what_is_no_image_is_refused(array, mpp):
    with pytest.raises(UsageError):
        find_tissue(np.zeros((4, 4, 3), np.uint8) if array is None else array, mpp)


def test_real_fields_of_solid_tissue_are_tissue(data_dir):
    # Fields seen to be solid: every one must be nearly all tissue, pale myxoid stroma and marrow fat included.
    solid = {
        "Non-Tumor": ["Case-48-P5-C18", "Case-48-P5-C20", "P9-B12-30770", "P9-B7", "P9-B28-22141", "Case-3-A18-11012"],
        "Non-Viable-Tumor": [
            "Case-3-A12",
            "Case-3-A15",
            "Case-3-A17-18676",
            "Case-3-A17-26576",
            "Case-3-A7-3",
            "Case-3-A8",
        ],
        "Viable": ["Case-48-P5-C14", "Case-48-P5-C16-44867", "Case-48-P5-C20-8674"],
    }
    paths = [p for k, names in solid.items() for n in names for p in (data_dir / "osteosarcoma" / k).glob(f"{n}*.jpg")]
    assert len(paths) == 19
    for path in paths:
        field = np.asarray(Image.open(path).convert("RGB").resize((128, 128), Image.Resampling.BOX))
        found = find_tissue(field, 8.0)
        assert found.mask.mean() > 0.9, path.name
        assert found.counts["pen"] == 0, path.name


def test_real_fields_with_glass_are_not_all_tissue(data_dir):
    for name, low, high in (
        ("Case-3-A15-2939", 0.3, 0.45), ("Case-3-A18-9485", 0.24, 0.32), ("P9-B6-5195", 0.2, 0.3),
        ("Case-48-P5-C24", 0.05, 0.15),
    ):  # fmt: skip
        (path,) = (data_dir / "osteosarcoma" / "Non-Tumor").glob(f"{name}*.jpg")
        field = np.asarray(Image.open(path).convert("RGB").resize((128, 128), Image.Resampling.BOX))
        assert low < find_tissue(field, 8.0).mask.mean() < high


def test_glass_of_the_real_slide(cmu_slide):
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(cmu_slide) as slide:
        image = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB").resize((139, 185), Image.Resampling.BOX)
    field = np.asarray(image)
    glass = estimate_glass(field)
    assert glass.seen
    assert np.abs(np.subtract(glass.colour, (245, 243, 244))).max() <= 2
    assert 0.38 < find_tissue(field, 8.0).mask.mean() < 0.48
