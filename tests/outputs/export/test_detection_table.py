"""A table of detections that goes to a spreadsheet and comes back with decisions."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pathology.cli.app import app
from pathology.errors import InputTableError
from pathology.findings.reviewed_count import count_reviewed
from pathology.findings.slide_detections import Decision
from pathology.findings.slide_result import SlideResult
from pathology.outputs.export.detection_table import COLUMNS, read_detection_table, write_detection_table
from pathology.outputs.results.detection_file import DETECTIONS, read_decisions, write_decisions, write_detections
from pathology.outputs.results.record import write_slide_record
from pathology.testing.constructed_results import random_detections


@pytest.fixture
def detections():
    return random_detections("slide", (4000, 3000), 60)


def table(path):
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def spot(detections, decisions):
    return count_reviewed(detections, decisions, mpp=0.25, tissue_mm2=None).hotspot


def save(path, rows, *, separator=",", encoding="utf-8", columns=COLUMNS):
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, columns, delimiter=separator, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_what_is_written(detections, tmp_path):
    decisions = {3: Decision.on(detections, 3, "rejected")}
    write_detection_table(
        tmp_path / "t.csv",
        detections,
        decisions,
        spot(detections, decisions),
    )
    rows = table(tmp_path / "t.csv")
    assert len(rows) == 60
    assert tuple(rows[0]) == COLUMNS
    assert [row["decision"] for row in rows[:5]] == ["", "", "", "rejected", ""]
    assert [int(row["number"]) for row in rows] == list(range(1, 61))
    np.testing.assert_allclose([float(row["x"]) for row in rows], detections.found.centres[:, 0], atol=0.06)
    np.testing.assert_allclose([float(row["score"]) for row in rows], detections.found.scores, atol=6e-5)
    hotspot = spot(detections, decisions)
    assert {i for i, row in enumerate(rows) if row["in_hotspot"]} == set(hotspot.members)


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_edited_in_a_spreadsheet_and_read_back(detections, tmp_path, separator, encoding):
    earlier = {row: Decision.on(detections, row, "accepted") for row in (0, 1, 2)}
    write_detection_table(tmp_path / "t.csv", detections, earlier, spot(detections, earlier))
    rows = table(tmp_path / "t.csv")
    rows[1]["decision"], rows[2]["decision"] = "", "Rejected"
    rows[7]["decision"], rows[9]["decision"] = " accept ", "reject"
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(60) if i not in (0, 20)]
    save(tmp_path / "t.csv", shuffled, separator=separator, encoding=encoding, columns=COLUMNS[::-1])
    found = read_detection_table(tmp_path / "t.csv", detections, earlier)
    assert {row: d.verdict for row, d in found.items()} == {
        0: "accepted",  # without a row in the table it stays
        2: "rejected",
        7: "accepted",
        9: "rejected",
    }
    assert found[0] is earlier[0]


def test_an_untouched_table_changes_nothing(detections, tmp_path):
    earlier = {row: Decision.on(detections, row, "rejected") for row in (5, 6)}
    write_detection_table(tmp_path / "t.csv", detections, earlier)
    assert read_detection_table(tmp_path / "t.csv", detections, earlier) == earlier


def test_what_is_wrong_is_named_with_its_line(detections, tmp_path):
    path = tmp_path / "t.csv"
    write_detection_table(path, detections, {}, spot(detections, {}))
    rows = table(path)

    def refused(match, changed):
        save(path, changed)
        with pytest.raises(InputTableError, match=match):
            read_detection_table(path, detections)

    refused("line 4: 'perhaps'", [row | ({"decision": "perhaps"} if i == 2 else {}) for i, row in enumerate(rows)])
    other = random_detections("other slide", (4000, 3000), 60)
    refused("line 2: .* is not a detection", [rows[0] | {"id": other.uuid(0)}, *rows[1:]])
    refused("lines 2 and 62", [*rows, rows[0]])
    save(path, rows, columns=COLUMNS[:-1])
    with pytest.raises(InputTableError, match="no column 'decision'"):
        read_detection_table(path, detections)
    path.write_bytes(b"\xff\xfe\x00rubbish")
    with pytest.raises(InputTableError, match="cannot read the table"):
        read_detection_table(path, detections)


def test_from_results_to_the_spreadsheet_and_back_to_a_grade(detections, tmp_path):
    folder = tmp_path / "slides" / "one"
    folder.mkdir(parents=True)
    write_detections(folder, detections)
    record = SlideResult(
        slide_id="one", path="one.svs", status="scored", model="m", model_sha256="0" * 64, mpp=0.25, tissue_mm2=9.0
    )
    write_slide_record(folder, record, [folder / DETECTIONS])

    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exception is None, result.exception
        return result.output

    run("export", tmp_path, "--format", "detections-csv", "--to", tmp_path / "out")
    path = tmp_path / "out" / "one.detections.csv"
    rows = table(path)
    before = count_reviewed(detections, {}, mpp=0.25, tissue_mm2=9.0)
    for row in rows:
        if row["in_hotspot"]:
            row["decision"] = "rejected" if int(row["number"]) % 2 else "accepted"
    save(path, rows, separator=";")
    said = run("import-review", tmp_path, "one", path)
    decisions = read_decisions(folder, detections)
    after = count_reviewed(detections, decisions, mpp=0.25, tissue_mm2=9.0)
    assert len(decisions) == before.hotspot.count > after.hotspot.count
    assert f"count {before.total} before review, {after.total} now" in said
    assert after.hotspot.basis in said
    run("export", tmp_path, "--format", "count", "--to", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "one.count.json").read_text())
    assert written["total"] == after.total
    assert written["hotspot"]["count"] == after.hotspot.count
    # What the grade rests on is the count as decided.
    graded = json.loads(
        run(
            *["grade", "fnclcc", "--histotype", "LMS", "--confirmed", "--necrosis", "0", "--untreated"],
            *["--slide", folder, "--json", "--accept-unreviewed"],
        )
    )
    part = next(part for part in graded["parts"] if part["name"] == "mitoses")
    assert part["value"].startswith(f"{after.hotspot.count} in ")


def test_decisions_of_the_viewer_are_in_the_table(detections, tmp_path):
    write_detections(tmp_path, detections)
    write_decisions(tmp_path, detections, [Decision.on(detections, 4, "accepted")])
    write_detection_table(
        tmp_path / "t.csv",
        detections,
        read_decisions(tmp_path, detections),
        spot(detections, read_decisions(tmp_path, detections)),
    )
    assert table(tmp_path / "t.csv")[4]["decision"] == "accepted"
