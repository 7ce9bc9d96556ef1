import json

import numpy as np
import pytest
import torch
from highdicom.seg import segread

from pathology.errors import BundleError, OutputError, WeightsHashError
from pathology.radiology.io.cohort import Case, read_cohort
from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.open import open_mask, open_volume
from pathology.radiology.models.bundle import CardText, read_radiology_card
from pathology.radiology.models.registry import predict_case, recipe_of
from pathology.radiology.models.segmentation_metrics import segmentation_agreement
from pathology.radiology.models.segmentation_recipe import SegmentationRecipe
from pathology.radiology.models.training_loop import OptimiserSettings, dice_and_cross_entropy
from pathology.testing.radiology_constructed import readers_cohort
from pathology.testing.radiology_dicom_write import write_contours, write_series
from pathology.testing.radiology_phantoms import tumour_phantom

TEXT = CardText(
    name="test-model",
    title="Test",
    training_data=({"name": "phantoms", "source": "made here", "licence": "CC0", "images": 6, "used_for": "training"},),
    limits=("Constructed data: no clinical claim.",),
)


def recipe(shape, **changes):
    options = {
        "sequences": ("CT",),
        "shape": shape,
        "spacing_mm": (4.0, 4.0, 4.0),
        "window": (8, 16, 16) if shape == "3d" else (1, 32, 32),
        "widths": (8, 16, 32),
        "foreground": 0.4,
        "optimiser": OptimiserSettings(steps=90 if shape == "3d" else 150, batch=4, learning_rate=2e-2),
    }
    return SegmentationRecipe(**(options | changes))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return readers_cohort(tmp_path_factory.mktemp("readers"), patients=6, readers=3, size=48)


@pytest.mark.parametrize("shape", ["2.5d", "3d"])
def test_every_shape_learns_and_is_measured_by_patient(cohort, shape):
    metrics = recipe(shape).evaluate(cohort, folds=2)
    values = {f.metric: f for f in metrics}
    dice = values["Dice coefficient"]
    assert dice.n == 6
    assert dice.unit == "patients"
    assert dice.value > 0.5, dice
    # A faint haze over the whole image costs the continuous form much more than the thresholded one.
    assert 0.2 < values["continuous Dice coefficient"].value <= 1
    assert 0.2 < values["soft Dice coefficient against the confidence map"].value <= 1


@pytest.mark.parametrize("shape", ["2.5d", "3d"])
def test_train_card_predict(cohort, tmp_path, shape):
    chosen = recipe(shape, architecture="attention-unet" if shape == "2.5d" else "unet")
    card = chosen.train(cohort, tmp_path / "model", TEXT, system="marin-2022", constructed=True)
    assert card.parameters == sum(p.numel() for p in chosen.build().parameters())
    assert recipe_of(read_radiology_card(tmp_path / "model")) == chosen
    found = predict_case(tmp_path / "model", cohort.cases[0], tmp_path / "out")
    json.dumps(found)
    assert found["intended_use"].startswith("Research use only")
    opened = cohort.cases[0].open("CT")
    mask = open_mask(tmp_path / "out" / "segmentation.nii.gz", opened)
    assert found["volume_cm3"] == pytest.approx(mask.volume_mm3 / 1000)
    truth = cohort.cases[0].contours("CT", opened)[0]
    assert segmentation_agreement(mask, truth).dice > 0.5
    assert (tmp_path / "out" / "montage.png").stat().st_size > 5000
    # The same again gives the same, voxel for voxel.
    predict_case(tmp_path / "model", cohort.cases[0], tmp_path / "again")
    again = open_mask(tmp_path / "again" / "segmentation.nii.gz", opened)
    np.testing.assert_array_equal(again.array, mask.array)
    with pytest.raises(OutputError, match="already"):
        chosen.train(cohort, tmp_path / "model", TEXT, system="marin-2022", constructed=True)


def test_dicom_in_dicom_out(tmp_path, cohort, check_conformance):
    """A DICOM series with contours goes in, a DICOM SEG comes out on its grid."""
    geometry = cohort.cases[0].open("CT").volume.geometry
    image, truth = tumour_phantom(geometry, seed=77, modality="CT", contrast=120, noise=15)
    series = write_series(image, tmp_path / "P1" / "CT_image", pseudonym="P1")
    write_contours(truth, series, tmp_path / "P1" / "CT_mask.dcm")
    chosen = recipe("2d")
    chosen.train(cohort, tmp_path / "model", TEXT, system="marin-2022", constructed=True)
    case = read_cohort(tmp_path).cases[-1]
    assert case.patient_id == "P1"
    found = predict_case(tmp_path / "model", case, tmp_path / "out")
    assert "segmentation.dcm" in found["files"]
    opened = open_volume(tmp_path / "P1" / "CT_image")
    from_dicom = open_mask(tmp_path / "out" / "segmentation.dcm", opened)
    from_nifti = open_mask(tmp_path / "out" / "segmentation.nii.gz", opened)
    np.testing.assert_array_equal(from_dicom.array, from_nifti.array)
    # The library reads it without our help, and finds the same voxels in the same slices.
    written = segread(tmp_path / "out" / "segmentation.dcm")
    frames = written.get_pixels_by_source_instance([s.SOPInstanceUID for s in series.slices], [1])
    np.testing.assert_array_equal(frames[..., 0].astype(bool), from_nifti.array)
    check_conformance(tmp_path / "out" / "segmentation.dcm")


def test_confidence_targets_come_from_all_contours(cohort):
    prepared, _ = recipe("3d").prepare(cohort.cases[0], with_target=True)
    assert {0.0, 1.0} <= {float(v) for v in np.round(np.unique(prepared.target), 3)}
    assert ((prepared.target > 0.2) & (prepared.target < 0.8)).any()


def test_loss_has_its_minimum_at_the_confidence():
    target = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    at = torch.logit(target).requires_grad_()
    dice_and_cross_entropy(at, target).backward()
    assert at.grad.abs().max() < 1e-4
    logits = at.detach()
    best = float(dice_and_cross_entropy(logits, target))
    for shift in (-0.5, 0.5):
        assert float(dice_and_cross_entropy(logits + shift, target)) > best


def test_wrong_recipes_and_cards_are_refused(cohort, tmp_path):
    with pytest.raises(ValueError, match="takes one slice"):
        recipe("2d", window=(4, 32, 32))
    with pytest.raises(ValueError, match="divisible by 4"):
        recipe("3d", window=(8, 18, 16))
    bare = Case("X", cohort.cases[0].images, {})
    with pytest.raises(StudyError, match="no mask"):
        recipe("3d").prepare(bare, with_target=True)
    quick = recipe("2d", optimiser=OptimiserSettings(steps=1, batch=1))
    quick.train(cohort.take([0, 1]), tmp_path / "m", TEXT, system="s", constructed=True)
    card = read_radiology_card(tmp_path / "m")
    with pytest.raises(ValueError, match="must state this"):
        type(card).model_validate(card.model_dump() | {"limits": ("small",)})
    with pytest.raises(BundleError, match="unknown recipe 'magic'"):
        recipe_of(card.model_copy(update={"recipe": "magic"}))
    weights = tmp_path / "m" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(WeightsHashError):
        predict_case(tmp_path / "m", cohort.cases[0], tmp_path / "o")
    (tmp_path / "m" / "card.yaml").unlink()
    with pytest.raises(BundleError, match=r"card\.yaml not found"):
        predict_case(tmp_path / "m", cohort.cases[0], tmp_path / "o")
