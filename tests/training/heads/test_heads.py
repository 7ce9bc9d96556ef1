"""From constructed features and a table to a bundle, and what must be refused on the way."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pathology.bundle.export import import_bundle
from pathology.bundle.head_card import read_head_card
from pathology.cli.app import app
from pathology.errors import BundleError, InputTableError, LeakageError
from pathology.features import open_features
from pathology.features.store import write_store
from pathology.scoring.heads import HeadScorer
from pathology.stats.intervals import Interval
from pathology.training.heads import HEADS, HeadSettings, train_heads
from pathology.training.heads.compare import Difference, choose_head

D = 12


def store(path, vectors, *, encoder="uni2-h", mpp=0.5):
    about = {
        "slide_id": path.stem,
        "encoder": {"encoder": encoder, "weights_sha256": "0" * 64},
        "patch_level0": 256,
        "mpp": mpp,
        "fingerprint": path.stem,
    }
    path.parent.mkdir(exist_ok=True)
    write_store(path, np.zeros((len(vectors), 2), int), [vectors], vectors.shape[1], about)


def cohort(folder, *, patients=30, share=(0.1, 0.6), seed=0, shuffle=False):
    """Write features in which a share of the patches, by class, has a planted signal; every third patient has two."""
    rng = np.random.default_rng(seed)
    classes = np.arange(patients) % 2
    shown = rng.permutation(classes) if shuffle else classes
    rows = ["slide_id,patient_id,label,site"]
    for patient in range(patients):
        for number in range(2 if patient % 3 == 0 else 1):
            vectors = rng.normal(size=(100, D)).astype(np.float32)
            vectors[: int(100 * share[classes[patient]]), 0] += 3
            store(folder / "features" / f"S{patient}-{number}.zarr", vectors)
            rows.append(f"S{patient}-{number},P{patient},{'LMS' if shown[patient] else 'DDLPS'},H{patient % 6}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return HeadSettings(
        features=folder / "features", labels=folder / "labels.csv", epochs=12, folds=3, inner=2, resamples=100
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    return folder, train_heads(cohort(folder), folder / "planted")


def test_a_planted_proportion_is_found_and_the_card_says_what_it_is(trained):
    folder, result = trained
    card = read_head_card(folder / "planted")
    assert result.areas["sampler"].value > 0.95
    assert card.classes == ("DDLPS", "LMS")
    assert (card.encoder.name, card.encoder.hub, card.encoder.vector) == ("uni2-h", "MahmoodLab/UNI2-h", D)
    assert "no commercial use" in card.encoder.licence
    assert card.training_data[0].patients == 30
    assert card.trust.conformal.n == card.trust.out_of_domain.n == 30
    assert "P1" not in (folder / "planted" / "evaluation.json").read_text()


def test_new_slides_are_scored_and_foreign_ones_flagged_or_refused(trained, tmp_path):
    folder, _ = trained
    rng = np.random.default_rng(5)
    high = rng.normal(size=(100, D)).astype(np.float32)
    high[:60, 0] += 3
    store(tmp_path / "new" / "like.zarr", high)
    store(tmp_path / "new" / "unlike.zarr", rng.normal(8, 4, size=(100, D)).astype(np.float32))
    scorer = HeadScorer(folder / "planted")
    like, unlike = (scorer.score(open_features(tmp_path / "new" / f"{n}.zarr")) for n in ("like", "unlike"))
    assert like.probabilities["LMS"] > 0.8
    assert sum(like.probabilities.values()) == pytest.approx(1)
    assert unlike.out_of_distribution > 1
    assert unlike.predicted == "abstained"
    for name, change in {"encoder": {"encoder": "virchow2"}, "scale": {"mpp": 1.0}}.items():
        store(tmp_path / f"{name}.zarr", high, **change)
        assert "head" in scorer.score(open_features(tmp_path / f"{name}.zarr")).error
    store(tmp_path / "length.zarr", high[:, :5])
    assert "vectors of 5 numbers" in scorer.score(open_features(tmp_path / "length.zarr")).error


def test_models_list_show_verify_export_and_import_know_heads(trained, tmp_path, monkeypatch):
    folder, _ = trained
    monkeypatch.setenv("PATHOLOGY_MODELS", str(tmp_path / "models"))

    def call(*arguments, status=0):
        result = CliRunner().invoke(app, ["models", *map(str, arguments)])
        assert result.exit_code == status, result.output
        return result.output

    page = call("show", folder / "planted")
    assert "| Encoder | uni2-h, 12 numbers per patch" in page
    assert "| Head | sampler" in page
    assert "## Metrics" in page
    assert call("verify", folder / "planted").count("ok  ") == 5
    archive = tmp_path / "planted.zip"
    call("export", folder / "planted", "--out", archive)
    assert "planted 1.0.0" in call("import", archive)
    (listed,) = [line for line in call("list").splitlines() if line.startswith("planted")]
    assert "[sampler on uni2-h, 12 numbers per patch]" in listed
    with pytest.raises(BundleError, match="slide-level head"):
        import_bundle(archive, folder=tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())
    arrays = tmp_path / "models" / "planted" / "head.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"!")
    assert "FAIL the arrays match the card" in call("verify", "planted", status=2)


@pytest.mark.parametrize("head", ["mean", "mlp", "attention", "transformer"])
def test_every_other_head_trains_and_scores(head, tmp_path):
    settings = cohort(tmp_path, patients=18).model_copy(update={"head": head, "patient": "bag"})
    result = train_heads(settings, tmp_path / "bundle")
    score = HeadScorer(tmp_path / "bundle").score(open_features(tmp_path / "features" / "S1-0.zarr"))
    assert not score.error
    assert result.card.head == head
    if head != "transformer":  # which does not learn from so few patients
        assert result.areas[head].value > 0.8


@pytest.mark.parametrize("head", HEADS)
def test_permuted_labels_give_no_better_than_chance(head, tmp_path):
    settings = cohort(tmp_path, patients=30, shuffle=True, seed=3).model_copy(update={"head": head, "epochs": 3})
    area = train_heads(settings, tmp_path / "bundle").areas[head]
    assert area.low < 0.5 < area.high


def test_one_slide_under_two_names_is_named(tmp_path):
    settings = cohort(tmp_path, patients=12)
    original = open_features(tmp_path / "features" / "S1-0.zarr")
    store(tmp_path / "features" / "copy.zarr", original.read()[::-1])
    with settings.labels.open("a") as file:
        file.write("copy,P99,DDLPS,H1\n")
    with pytest.raises(LeakageError, match="S1-0 and copy have the same features"):
        train_heads(settings, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_hospitals_are_kept_together_or_asked_for(tmp_path):
    settings = cohort(tmp_path, patients=18).model_copy(update={"keep_sites": True, "head": "mean"})
    assert "hospitals" in train_heads(settings, tmp_path / "bundle").card.split
    table = [row[:3] for row in csv.reader(settings.labels.read_text().splitlines())]
    settings.labels.write_text("\n".join(",".join(row) for row in table) + "\n")
    with pytest.raises(InputTableError, match="site"):
        train_heads(settings, tmp_path / "other")


def test_only_a_difference_beyond_chance_changes_the_choice():
    def difference(value, low, high):
        return Difference(
            first="mean",
            second="attention",
            difference=Interval(value=value, low=low, high=high, level=0.95, n=30, method="bootstrap"),
        )

    assert choose_head((difference(-0.1, -0.3, 0.1),)) == "mean"
    assert choose_head((difference(-0.2, -0.3, -0.1),)) == "sampler"


def test_the_commands_train_and_score(tmp_path):
    cohort(tmp_path, patients=12)
    run = CliRunner()
    arguments = ["train", "subtypes", "-f", tmp_path / "features", "-l", tmp_path / "labels.csv", "--head", "mean"]
    arguments += ["--folds", "2", "--inner", "2", "--resamples", "100", "--out", tmp_path / "subtypes"]
    found = run.invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert json.loads((tmp_path / "subtypes" / "evaluation.json").read_text())["heads"]["mean"]
    arguments = ["score", tmp_path / "features", "--model", tmp_path / "subtypes", "--out", tmp_path / "scores"]
    found = run.invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    rows = list(csv.DictReader((tmp_path / "scores" / "slides.csv").read_text().splitlines()))
    assert len(rows) == 16
    assert {row["features"] for row in rows} == {"found"}
    found = run.invoke(app, [*map(str, arguments), "--min-tissue", "0.4"])
    assert found.exit_code != 0
    assert "no meaning for a head" in f"{found.output}{found.exception}"
