"""What was measured of the systems: every file is whole, agrees with the cards, and is what the scripts write."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from pathology.bundle.card import Metric
from pathology.errors import UsageError
from pathology.systems.own_metrics import (
    MEASURED,
    OwnMetric,
    own_metric,
    read_own_metrics,
    record_by_system,
    record_own_metrics,
)
from pathology.systems.system import all_systems, system_modules

ROOT = Path(__file__).parents[2]
FILES = sorted(MEASURED.glob("*.json"))


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metric(value=0.7, **changes):
    given = {"metric": "AUC", "value": value, "interval": (0.6, 0.8), "n": 9, "unit": "patients", "data": "drawn"}
    return OwnMetric(**given | changes)


def test_there_are_files():
    assert len(FILES) >= 18


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_a_system_s_and_says_by_what_it_was_measured(path):
    assert path.stem in system_modules()
    found = read_own_metrics(path.stem)
    assert found
    assert len({(m.metric, m.data) for m in found}) == len(found), "a metric is given twice"
    for group in json.loads(path.read_text())["measured"]:
        assert (ROOT / group["by"].split()[0]).is_file(), group["by"]


def test_the_catalogue_shows_what_the_files_hold():
    for system in all_systems():
        assert system.own == read_own_metrics(system.id)
        assert [m["metric"] for m in system.model_dump()["own"]] == [m.metric for m in system.own]
    assert sum(len(system.own) for system in all_systems()) >= 50


def test_the_colour_baseline_is_that_of_the_shipped_card():
    card = yaml.safe_load((ROOT / "models/osteosarcoma-viability/card.yaml").read_text())
    on_card = {m["metric"]: m for m in card["metrics"]}["recall of non-tumour, all cases (colour baseline)"]
    seen = 0
    for path in FILES:
        for own in read_own_metrics(path.stem):
            if baseline := re.search(r"colour-only baseline: ([0-9.]+)", own.metric):
                seen += 1
                assert (float(baseline[1]), own.n, own.unit) == (on_card["value"], on_card["n"], on_card["unit"])
    assert seen == 3


@pytest.mark.parametrize(
    "changes",
    [{"n": 0}, {"interval": (0.71, 0.8)}, {"interval": (0.8, 0.6)}, {"data": ""}, {"unit": ""}, {"metric": ""}],
)
def test_a_metric_without_n_interval_or_data_is_refused(changes):
    with pytest.raises(ValueError):
        metric(**changes)


def test_measuring_again_replaces_its_own_metrics_only(tmp_path):
    record_own_metrics("foersch-2021", "a.py one", [metric(), metric(metric="recall")], tmp_path)
    record_own_metrics("foersch-2021", "a.py two", [metric(data="other")], tmp_path)
    record_own_metrics("foersch-2021", "a.py one", [metric(0.75)], tmp_path)
    assert [(m.value, m.data) for m in read_own_metrics("foersch-2021", tmp_path)] == [(0.75, "drawn"), (0.7, "other")]
    assert read_own_metrics("zhang-2022", tmp_path) == ()


def test_files_that_are_none_are_refused(tmp_path):
    record_own_metrics("foersch-2021", "a.py", [metric()], tmp_path)
    (tmp_path / "foersch-2021.json").rename(tmp_path / "zhang-2022.json")
    with pytest.raises(UsageError, match="those of foersch-2021"):
        read_own_metrics("zhang-2022", tmp_path)
    (tmp_path / "zhang-2022.json").write_text('{"system": "zhang-2022", "measured": [{"by": "a.py", "metrics": [{}]}]}')
    with pytest.raises(UsageError, match=r"zhang-2022\.json"):
        read_own_metrics("zhang-2022", tmp_path)


def card_metric(value=0.71234, **changes):
    interval = None if value is None else (0.61234, 0.81234)
    given = {"metric": "AUC", "value": value, "interval": interval, "method": "drawn", "n": 9, "unit": "patients"}
    return Metric(**given | {"data": "drawn", "note": "none"} | changes)


def test_what_could_not_be_estimated_is_not_recorded(tmp_path):
    assert own_metric(card_metric(None)) is None
    assert own_metric(card_metric(), "T1") == metric(0.712, metric="AUC, T1", interval=(0.612, 0.812))
    found = {"liu-2021, T1": [card_metric(), card_metric(None)], "no picture": [card_metric()], "ye-2021": []}
    assert [p.name for p in record_by_system(found, "a.py", ("liu-2021", "ye-2021"), tmp_path)] == ["liu-2021.json"]
    assert [m.metric for m in read_own_metrics("liu-2021", tmp_path)] == ["AUC, T1", "AUC, no picture"]


def test_the_radiology_script_records_a_finished_part(tmp_path):
    record_part = script("evaluate_radiology").record_part
    figures = {"liang-2022, T1": [card_metric().model_dump(mode="json")]}
    part = tmp_path / "deep.json"
    part.write_text(json.dumps({"part": "deep", "small": True, "figures": figures}))
    assert record_part(part, None) == []
    assert [path.name for path in record_part(part, tmp_path / "measured")] == ["liang-2022.json"]
    (found,) = read_own_metrics("liang-2022", tmp_path / "measured")
    assert (found.metric, found.data) == ("AUC, T1", "drawn; shortened training")
    part.write_text(json.dumps({"part": "permuted", "small": False, "figures": figures}))
    assert record_part(part, tmp_path / "measured") == []


def test_the_survival_script_records_what_the_package_holds(tmp_path):
    """The shipped values, given as scores, come out as the shipped files."""
    area = {"value": 0.663, "low": 0.563, "high": 0.758}
    red = {"value": 0.624, "low": 0.557, "high": 0.691}
    cox = {"value": 0.640, "low": 0.570, "high": 0.710}
    scores = [
        {"outcome": "OS", "model": "RED_SNN", "patients": 197, "harrell": red, "auc": {"1826.25": area}},
        {"outcome": "OS", "model": "Cox", "patients": 197, "harrell": cox, "auc": {"1826.25": area}},
        {"outcome": "DSS", "model": "Cox", "patients": 190, "harrell": red, "auc": {"1826.25": area}},
    ]
    script("evaluate_survival").record_scores(scores, 3, tmp_path)
    assert read_own_metrics("ryu-2020", tmp_path) == read_own_metrics("ryu-2020")
    assert read_own_metrics("han-2018", tmp_path) == read_own_metrics("han-2018")
    assert [m.metric for m in read_own_metrics("bhambhvani-2021", tmp_path)] == ["AUC at 5 years, Cox"]


def test_the_tile_script_records_beside_the_baseline(tmp_path):
    recall = {"value": 7 / 17, "low": 0.21, "high": 0.64, "n": 17}
    record = {
        "data": "45 osteosarcoma tiles, 3 cases, leave one case out",
        "colour baseline": {"recall of non-tumour": recall},
        "frankel-2022": {"recall of non-tumour": {"value": 4 / 17, "low": 0.0956, "high": 0.4726, "n": 17}},
    }
    script("evaluate_osteosarcoma_recipes").record_recalls(record, ["frankel-2022"], 1, tmp_path)
    (found,), (held,) = read_own_metrics("frankel-2022", tmp_path), read_own_metrics("frankel-2022")
    assert (found.metric, found.value, found.interval, found.n) == (held.metric, held.value, held.interval, held.n)
    assert found.data.endswith("2 epochs from random weights")
