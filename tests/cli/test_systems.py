import json

from typer.testing import CliRunner

from pathology.cli.app import app


def test_systems_as_json():
    systems = json.loads(CliRunner().invoke(app, ["systems", "--json"]).output)
    assert {"id", "title", "reference", "task", "network", "parameters", "status", "data", "published", "own"} <= set(
        systems[0]
    )
    by_id = {system["id"]: system for system in systems}
    assert len(by_id) == len(systems)
    assert by_id["zehra-2022"]["parameters"] == 52_496_022
    assert by_id["navarro-2021"]["parameters"] == 26_476_418
    assert by_id["bhambhvani-2021"]["parameters"] == 683_010
    assert all(system["status"] in ("works", "planned") for system in systems)


def test_systems_for_people():
    out = CliRunner().invoke(app, ["systems"])
    assert out.exit_code == 0
    assert "published:" in out.output
    assert "on other data" in out.output
