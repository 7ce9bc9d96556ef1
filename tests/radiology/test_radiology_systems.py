"""Every published radiology system trains, is measured and predicts, with its own network, on a handful of images.

Training is cut to a step or two: that the machinery runs end to end is tested here, what it learns elsewhere.
"""

import json

import numpy as np
import pandas as pd
import pytest

from pathology.radiology.features.radiomics import FeatureSettings
from pathology.radiology.io.cohort import read_cohort
from pathology.radiology.models.adversarial_recipe import AcganSettings
from pathology.radiology.models.bundle import CardText, read_radiology_card
from pathology.radiology.models.registry import predict_case, recipe_of
from pathology.radiology.models.training_loop import OptimiserSettings
from pathology.systems.radiology import (
    banerjee_2018,
    gao_2021,
    holbrook_2020,
    jardim_perassi_2021,
    liang_2022,
    liu_2021,
    marin_2022,
    navarro_2021,
    peng_2019,
    yang_2022_grade,
    yang_2022_lipoma,
    ye_2021,
)
from pathology.testing.radiology_constructed import (
    adc_cohort,
    fat_cohort,
    hypoxia_cohort,
    oct_cohort,
    readers_cohort,
    two_sequence_cohort,
)

ONE = OptimiserSettings(steps=1, batch=2)
TEXT = CardText(
    name="test-system",
    title="Test",
    training_data=({"name": "phantoms", "source": "made here", "licence": "CC0", "images": 4, "used_for": "training"},),
    limits=("Constructed data: no clinical claim.",),
)


def shortened(recipe, **changes):
    classifier = recipe.classifier.model_copy(update={"optimiser": ONE, "shift": 0})
    return recipe.model_copy(update={"classifier": classifier} | changes)


def runs(module, recipe, cohort, folder, *, folds=2):
    """Evaluate, train, read back, predict."""
    metrics = recipe.evaluate(cohort, folds=folds)
    assert metrics
    assert all(f.n and f.data and (f.interval is not None or f.note) for f in metrics)
    system = module.SYSTEM.id
    card = recipe.train(cohort, folder / "model", TEXT, system=system, metrics=metrics, constructed=True)
    assert recipe_of(read_radiology_card(folder / "model")) == recipe
    found = predict_case(folder / "model", cohort.with_values(cohort.cases[0]), folder / "out")
    json.dumps(found)
    for name in found["files"]:
        assert (folder / "out" / name).stat().st_size > 0
    return card, found


def check_image_system(card, found, module):
    assert card.parameters == module.SYSTEM.parameters
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_banerjee(tmp_path):
    cohort = two_sequence_cohort(tmp_path, patients=4, size=16)
    recipe = shortened(
        banerjee_2018.recipe(), label="class", classes=("same", "different"), size=64, slices=2, registration=None
    )
    check_image_system(*runs(banerjee_2018, recipe, cohort, tmp_path), banerjee_2018)


def test_navarro(tmp_path):
    cohort = two_sequence_cohort(tmp_path, patients=4, size=16, names=("MR_T1", "MR_T2"))
    cohort.clinical["high_grade"] = [0, 1, 0, 1]
    recipe = shortened(navarro_2021.recipe(), size=32, slices=1)
    check_image_system(*runs(navarro_2021, recipe, cohort, tmp_path), navarro_2021)


def test_peng(tmp_path):
    cohort = two_sequence_cohort(tmp_path, patients=4, size=16, names=("PET", "CT"))
    cohort.clinical["lung_metastasis"] = [0, 1, 0, 1]
    recipe = shortened(peng_2019.recipe(), size=16)
    check_image_system(*runs(peng_2019, recipe, cohort, tmp_path), peng_2019)


@pytest.mark.slow
def test_gao(tmp_path):
    cohort = adc_cohort(tmp_path, patients=6, size=16)
    recipe = shortened(
        gao_2021.recipe(), size=32, slices=2, synthetic=2, acgan=AcganSettings(noise=8, width=4, steps=2, batch=4)
    )
    card, found = runs(gao_2021, recipe, cohort, tmp_path)
    check_image_system(card, found, gao_2021)
    assert card.fitted == {"synthetic_per_class": 2, "gan_patients": 6}
    assert sum(found["votes"].values()) == 2


def test_ye(tmp_path):
    cohort = oct_cohort(tmp_path, patients=4, size=32)
    recipe = shortened(ye_2021.recipe(), size=32, slices=2)
    check_image_system(*runs(ye_2021, recipe, cohort, tmp_path), ye_2021)


@pytest.mark.parametrize("module", [marin_2022, holbrook_2020])
def test_segmentation_systems(tmp_path, module):
    cohort = readers_cohort(tmp_path, patients=2, readers=2, size=32)
    recipe = module.recipe(("CT",))
    window = (1, 32, 32) if recipe.shape == "2.5d" else (8, 32, 32)
    recipe = recipe.model_copy(update={"optimiser": ONE, "window": window, "overlap": 0.0})
    card, found = runs(module, recipe, cohort, tmp_path)
    assert card.parameters == module.SYSTEM.parameters
    assert found["volume_cm3"] >= 0


def test_jardim_perassi(tmp_path):
    cohort = hypoxia_cohort(tmp_path, patients=4, size=12)
    recipe = shortened(jardim_perassi_2021.recipe(), patch=5, per_case=8)
    card, found = runs(jardim_perassi_2021, recipe, cohort, tmp_path)
    assert card.parameters == jardim_perassi_2021.SYSTEM.parameters
    assert 0 <= found["hypoxic_fraction"] <= 1


@pytest.fixture(scope="module")
def fatty(tmp_path_factory):
    """Fatty tumours with every clinical column that a nomogram asks for."""
    folder = tmp_path_factory.mktemp("fatty")
    fat_cohort(folder, patients=16, seed=3, size=14)
    table = pd.read_csv(folder / "clinical.csv")
    random = np.random.default_rng(0)
    table["lung_metastasis"] = table["is_high"] = table["recurrence"] = (table["diagnosis"] == "liposarcoma").astype(
        int
    )
    table["grade"] = random.choice(["Low", "Intermediate", "High"], len(table))
    table["relapse_days"] = random.exponential(np.where(table["is_high"], 200, 700)).round(1)
    table["relapse"] = 1
    table.to_csv(folder / "clinical.csv", index=False)
    return read_cohort(folder / "images", folder / "clinical.csv")


QUICK = FeatureSettings(families=("statistics",), spacing_mm=None)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (liang_2022, "recipe"),
        (yang_2022_lipoma, "recipe"),
        (yang_2022_grade, "recipe"),
        (holbrook_2020, "recurrence_recipe"),
    ],
)
def test_nomogram_systems(fatty, tmp_path, module, name):
    recipe = module.recurrence_recipe("MR_T1", 6.0) if name == "recurrence_recipe" else module.recipe()
    signature = recipe.signature.model_copy(update={"inner_folds": 2})
    features = dict.fromkeys(recipe.sequences, QUICK)
    recipe = recipe.model_copy(update={"features": features, "signature": signature, "repeats": 1})
    _, found = runs(module, recipe, fatty, tmp_path)
    assert 0 < found["probability"] < 1


def test_liu(fatty, tmp_path):
    recipe = liu_2021.recipe()
    measuring = recipe.measuring.model_copy(update={"features": {"MR_T1": QUICK}})
    signature = recipe.signature.model_copy(update={"keep": 3, "penalties": (0.1,), "inner_folds": 2})
    recipe = recipe.model_copy(update={"measuring": measuring, "signature": signature})
    _, found = runs(liu_2021, recipe, fatty, tmp_path)
    assert set(found["probability"]) == {"1 year", "2 years", "3 years"}


@pytest.mark.parametrize("module", [liang_2022, yang_2022_grade, yang_2022_lipoma, liu_2021])
def test_deep_features_can_be_added(module):
    recipe = module.recipe(deep_start="random")
    deep = getattr(recipe, "measuring", recipe).deep
    assert {d.backbone for d in deep} == ({"resnet50"} if module is yang_2022_lipoma else {"resnet34"})


def test_every_system_is_described():
    modules = [
        banerjee_2018,
        navarro_2021,
        liu_2021,
        liang_2022,
        peng_2019,
        gao_2021,
        ye_2021,
        marin_2022,
        yang_2022_lipoma,
        yang_2022_grade,
        holbrook_2020,
        jardim_perassi_2021,
    ]
    assert [m.SYSTEM.code for m in modules] == [f"B{i}" for i in range(1, 13)]
    for module in modules:
        assert module.SYSTEM.published
        assert module.SYSTEM.notes
        assert module.recipe().kind
