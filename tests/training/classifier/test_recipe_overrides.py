import pytest

from pathology.errors import UsageError
from pathology.systems.slide_classifier import find_classifier, slide_classifiers
from pathology.training.classifier.recipe_overrides import changed_recipe


def test_settings_of_recipe_stages_and_network():
    recipe = find_classifier("foersch-2021").recipe
    changed = changed_recipe(
        recipe, ["patch=96", "patches-per-slide=5", "epochs=2", "lowest_rate=0.00001", "stain=none", "patience=null"]
    )
    assert (changed.patch, changed.patches_per_slide, changed.stain, changed.patience) == (96, 5, "none", None)
    assert [stage.epochs for stage in changed.stages] == [2, 2]
    assert [stage.frozen for stage in changed.stages] == [True, False]
    assert len(changed_recipe(recipe, ["stages=1"]).stages) == 1
    inception = changed_recipe(find_classifier("zhang-2022").recipe, ["network.aux_logits=false", "patch=96"])
    assert inception.architecture_options == {"aux_logits": False}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("patch", "expected NAME=VALUE"),
        ("pathc=9", "Did you mean patch"),
        ("qqq=9", "Choose one of"),
        ("patch=9", "patch"),
        ("stages=7", "has 2 stages"),
        ("epochs=0", "epochs"),
        ("patch=[1", "cannot parse"),
    ],
)
def test_mistakes_are_named(change, what):
    with pytest.raises(UsageError, match=what):
        changed_recipe(find_classifier("foersch-2021").recipe, [change])


def test_all_classifiers_are_listed_and_their_parameters_are_the_networks():
    from pathology.networks.registry import build_network

    assert slide_classifiers() == (
        *("foersch-2021", "foersch-2021-survival", "frankel-2022", "zhang-2022", "zhang-2022-prognosis"),
    )
    for name in slide_classifiers():
        found = find_classifier(name)
        network = build_network(found.recipe.architecture, len(found.classes), **found.recipe.architecture_options)
        assert found.system.parameters == sum(p.numel() for p in network.parameters())
        assert found.system.status == "works"


def test_the_published_schedules():
    foersch = find_classifier("foersch-2021").recipe
    assert [(s.epochs, s.frozen, s.learning_rate, s.lowest_rate) for s in foersch.stages] == [
        (25, True, 1e-4, None),
        (25, False, 1e-4, "find"),
    ]
    assert (foersch.patch, foersch.batch, foersch.weight_decay, foersch.stain) == (1024, 5, 0.1, "vahadane")
    assert foersch.mpp is None  # not published
    frankel = find_classifier("frankel-2022").recipe
    assert (frankel.patch, frankel.mpp, frankel.min_tissue, frankel.step_factor) == (299, 0.5, 0.5, 0.16)
    with pytest.raises(UsageError, match="no slide classifier"):
        find_classifier("zehra-2022")
