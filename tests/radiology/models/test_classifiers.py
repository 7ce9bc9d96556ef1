import json

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pathology.bundle.weights import write_state_dict
from pathology.errors import BundleError, LeakageError, UsageError
from pathology.networks.torchvision_classifiers import resnet18
from pathology.radiology.images.fusion import fuse
from pathology.radiology.io.adc import adc_map
from pathology.radiology.io.errors import EmptyMaskError, GeometryError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Volume
from pathology.radiology.models.adversarial_recipe import AcganSettings, AdversarialRecipe, fit_acgan, memorisation
from pathology.radiology.models.habitat_recipe import HabitatRecipe, hypoxic_fraction
from pathology.radiology.models.image_recipe import ImageRecipe
from pathology.radiology.models.network_classifier import (
    ClassifierSettings,
    LabelledImages,
    cross_validated_probabilities,
    fit_classifier,
    patient_metrics,
    probabilities,
)
from pathology.radiology.models.pretrained import start_from
from pathology.radiology.models.training_loop import OptimiserSettings
from pathology.testing.radiology_constructed import adc_cohort, hypoxia_cohort, two_sequence_cohort

SMALL = ClassifierSettings(
    architecture="two-stream-petct",
    options={"widths": (8, 16)},
    shift=1,
    optimiser=OptimiserSettings(steps=80, batch=16, learning_rate=1e-2),
)


def test_fusion_keeps_both_images():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5, 6)).astype(np.float32)
    fused = fuse(a, b, 0.3)
    np.testing.assert_array_equal(fused[:2], [a, b])
    np.testing.assert_allclose(fused[2], 0.3 * a + 0.7 * b, atol=1e-6)
    with pytest.raises(UsageError, match="Register them first"):
        fuse(a, b[:3])
    with pytest.raises(UsageError, match="weight"):
        fuse(a, b, 2.0)


def xor_images(count=64, patients=32, seed=0):
    """Blocks whose class is whether both channels have the same sign in the middle."""
    random = np.random.default_rng(seed)
    pixels = random.normal(0, 0.3, size=(count, 2, 8, 8, 8)).astype(np.float32)
    owner = np.arange(count) % patients
    signs = np.stack([np.where(owner % 2, 1, -1), np.where((owner // 2) % 2, 1, -1)], axis=1)
    pixels[:, :, 2:6, 2:6, 2:6] += 1.5 * signs[:, :, None, None, None]
    labels = (signs[:, 0] == signs[:, 1]).astype(np.int64)
    return LabelledImages(pixels, labels, tuple(f"P{i:02d}" for i in owner))


def test_the_two_streams_are_fused():
    """Neither channel tells the class; the network with both does, and with one taken away it cannot."""
    images = xor_images()
    full = cross_validated_probabilities(images, 2, SMALL, folds=2)
    assert roc_auc_score(images.labels, full[:, 1]) > 0.9
    blind = images.pixels.copy()
    blind[:, 1] = 0
    alone = cross_validated_probabilities(LabelledImages(blind, images.labels, images.patients), 2, SMALL, folds=2)
    assert roc_auc_score(images.labels, alone[:, 1]) < 0.75


def test_copies_of_a_picture_under_two_patients_are_found():
    images = xor_images(16, 16)
    pixels = images.pixels.copy()
    pixels[8] = pixels[3]
    labels = images.labels.copy()
    labels[8] = labels[3]
    quick = SMALL.model_copy(update={"optimiser": OptimiserSettings(steps=1, batch=2)})
    copied = LabelledImages(pixels, labels, images.patients)
    # Each patient has a fold of his own, so the two pictures stand on different sides in some division.
    with pytest.raises(LeakageError, match="contents"):
        cross_validated_probabilities(copied, 2, quick, folds=8)


def test_figures_count_patients_not_images():
    images = xor_images()
    scores = np.column_stack([1 - images.labels, images.labels]) * 0.8 + 0.1
    metrics = patient_metrics(images, scores, ("different", "same"), data="x")
    assert [f.metric for f in metrics] == ["area under the ROC curve", "balanced accuracy", "accuracy"]
    assert all(f.n == 32 and f.unit == "patients" for f in metrics)
    assert metrics[0].value == 1.0


def test_classifiers_depend_on_the_seed_alone():
    images = xor_images()
    quick = SMALL.model_copy(update={"optimiser": OptimiserSettings(steps=5, batch=4)})
    first, _ = fit_classifier(images, 2, quick, seed=3)
    torch.rand(7)
    second, _ = fit_classifier(images, 2, quick, seed=3)
    np.testing.assert_array_equal(probabilities(first, images.pixels), probabilities(second, images.pixels))
    with pytest.raises(UsageError, match="class 2 has no training image"):
        fit_classifier(images, 3, quick)
    with pytest.raises(UsageError, match="64 images, 3 labels"):
        LabelledImages(images.pixels, images.labels[:3], images.patients)


def test_weights_can_start_from_a_file(tmp_path):
    torch.manual_seed(1)
    source = resnet18(5)
    write_state_dict(source.state_dict(), tmp_path / "start.safetensors", half=False)
    network = resnet18(2)
    said = start_from(network, "resnet18", str(tmp_path / "start.safetensors"))
    assert said.endswith("fresh: the head (2)")
    torch.testing.assert_close(network.conv1.weight, source.conv1.weight)
    assert network.fc.weight.shape == (2, 512)
    assert start_from(network, "resnet18", "random") == "random weights"
    with pytest.raises(BundleError, match="hold 0 of the"):
        start_from(torch.nn.Linear(3, 3), "resnet18", str(tmp_path / "start.safetensors"))


@pytest.mark.parametrize("planar", [True, False])
def test_images_are_cut_around_the_tumour(tmp_path, planar):
    cohort = two_sequence_cohort(tmp_path, patients=4, size=32)
    recipe = ImageRecipe(
        sequences=("T1GD", "DWI"),
        label="class",
        classes=("same", "different"),
        planar=planar,
        slices=3,
        size=32,
        channels="three" if planar else "as is",
        classifier=SMALL,
    )
    images = recipe.images(cohort)
    if planar:
        assert images.pixels.shape == (12, 3, 32, 32)
        np.testing.assert_allclose(images.pixels[:, 2], images.pixels[:, :2].mean(axis=1), atol=1e-6)
    else:
        assert images.pixels.shape == (4, 2, 32, 32, 32)
    for patient, label in zip(cohort.patients, images.labels[:: len(images) // 4], strict=True):
        rows = [i for i, p in enumerate(images.patients) if p == patient]
        middle = images.pixels[rows][..., 14:18, 14:18]
        edge = images.pixels[rows][..., :2, :2]
        signs = [np.sign(middle[:, c].mean() - edge[:, c].mean()) for c in (0, 1)]
        assert (signs[0] == signs[1]) == (label == 0)


# --- ADC and the GAN -----------------------------------------------------------------------------------------


def test_adc_is_recovered(axial):
    truth = np.random.default_rng(0).uniform(0.5e-3, 2.5e-3, axial.shape)
    volumes = {
        b: Volume((1000 * np.exp(-b * truth)).astype(np.float32), axial, "MR", "", f"b{b}") for b in (0, 200, 800)
    }
    found = adc_map(volumes)
    np.testing.assert_allclose(found.array, truth, rtol=1e-3)
    assert found.unit == "mm2/s"
    dark = {b: v.with_array(np.where(np.indices(axial.shape)[0] < 3, 0, v.array)) for b, v in volumes.items()}
    assert (adc_map(dark).array[:3] == 0).all()
    with pytest.raises(UsageError, match="two non-negative b-values"):
        adc_map({0.0: volumes[0]})
    other = Volume(volumes[200].array, Geometry(axial.size, (1, 1, 1)), "MR")
    with pytest.raises(GeometryError, match="b = 200"):
        adc_map({0.0: volumes[0], 200.0: other})


def rings(count=120, seed=0):
    """Two classes of 16-pixel images: bright disc or bright ring, moved about."""
    random = np.random.default_rng(seed)
    y, x = np.indices((16, 16))
    labels = np.arange(count) % 2
    pixels = []
    for label in labels:
        r = np.hypot(y - random.uniform(6.5, 8.5), x - random.uniform(6.5, 8.5))
        shape = (r < 4) if label == 0 else (np.abs(r - 5) < 1.2)
        pixels.append(shape + random.normal(0, 0.1, (16, 16)))
    images = np.asarray(pixels, np.float32)[:, None].repeat(3, axis=1)
    return LabelledImages(images, labels.astype(np.int64), tuple(f"P{i // 4:02d}" for i in range(count)))


@pytest.fixture(scope="module")
def generator():
    settings = AcganSettings(noise=16, width=8, steps=250, batch=32, learning_rate=1e-3)
    return fit_acgan(rings(), 2, settings, seed=0)


def test_made_images_have_their_class(generator):
    made = generator.make(60, seed=1)
    assert made.pixels.shape == (120, 3, 16, 16)
    assert len(set(made.patients)) == 120
    real = rings(seed=9)
    centre = made.pixels[:, 0, 6:10, 6:10].mean(axis=(1, 2))
    assert roc_auc_score(made.labels == 0, centre) > 0.8  # discs are bright in the middle
    assert made.pixels.min() >= real.pixels.min() - 1
    np.testing.assert_array_equal(generator.make(5, seed=2).pixels, generator.make(5, seed=2).pixels)


def test_a_generator_of_a_test_patient_is_refused(generator):
    generator.audit(["Q1", "Q2"])
    with pytest.raises(LeakageError, match="patient P03"):
        generator.audit(["Q1", "P03"])


def test_memorisation_is_noticed(generator):
    training, held_out = rings(), rings(seed=5)
    honest = memorisation(generator.make(50).pixels, training.pixels, held_out.pixels)
    copied = training.pixels + np.float32(0.001)
    thief = memorisation(copied, training.pixels, held_out.pixels)
    assert thief.copies == 1.0
    assert thief.synthetic < 0.02 < thief.held_out
    assert honest.synthetic > 10 * thief.synthetic
    same = memorisation(rings(seed=6).pixels, training.pixels, held_out.pixels)
    assert same.copies < 0.1


def test_a_classifier_of_made_images_beats_chance_on_real_ones(tmp_path):
    images = rings(64)
    recipe = AdversarialRecipe(
        classes=("disc", "ring"),
        synthetic=60,
        acgan=AcganSettings(noise=16, width=8, steps=150, batch=32, learning_rate=1e-3),
        classifier=ClassifierSettings(
            architecture="resnet18", shift=1, optimiser=OptimiserSettings(steps=20, batch=16, learning_rate=2e-3)
        ),
    )
    scores, tests = recipe.rounds(images, folds=2)
    assert roc_auc_score(images.labels, scores[:, 1]) > 0.75
    assert len(tests) == 2
    assert all(t.copies < 0.5 for t in tests)


def test_adc_phantoms_follow_their_class(tmp_path):
    cohort = adc_cohort(tmp_path, patients=3, size=32)
    for case, effect in zip(cohort.cases, cohort.column("effect"), strict=True):
        last = case.open("ADC_3")
        inside = last.volume.array[case.contours("ADC_3", last)[0].array]
        dead = float((inside > 1.6e-3).mean())
        assert dead == pytest.approx(cohort.column("dead_share")[case.patient_id], abs=0.05)
        assert effect == ("up to 20 %", "20-90 %", "90 % and more")[int(dead > 0.25) + int(dead > 0.85)]


# --- habitats ------------------------------------------------------------------------------------------------


def test_the_hypoxic_fraction_of_phantoms_is_recovered(tmp_path):
    cohort = hypoxia_cohort(tmp_path, patients=4, size=24)
    recipe = HabitatRecipe(
        patch=9,
        per_case=120,
        classifier=ClassifierSettings(
            architecture="resnet18", shift=0, optimiser=OptimiserSettings(steps=30, batch=32, learning_rate=2e-3)
        ),
    )
    metrics = {f.metric: f for f in recipe.evaluate(cohort, folds=2)}
    assert metrics["area under the ROC curve of pixels"].value > 0.85
    assert metrics["correlation of hypoxic fractions with histology"].value > 0.8
    assert metrics["mean absolute error of the hypoxic fraction"].value < 0.15
    json.dumps([f.model_dump() for f in metrics.values()])


def test_hypoxic_fraction_by_hand(axial):
    tumour = np.zeros(axial.shape, bool)
    tumour[0, 0, :10] = True
    probability = np.zeros(axial.shape, np.float32)
    probability[0, 0, :4] = 0.5
    probability[5] = 1.0  # outside the tumour
    assert hypoxic_fraction(Volume(probability, axial), Mask(tumour, axial)) == 0.4
    with pytest.raises(EmptyMaskError):
        hypoxic_fraction(Volume(probability, axial), Mask(~tumour & tumour, axial))
    with pytest.raises(ValueError, match="odd"):
        HabitatRecipe(patch=8)
    with pytest.raises(ValueError, match="label is that of the central pixel"):
        HabitatRecipe(classifier=ClassifierSettings(architecture="resnet18", shift=2))
