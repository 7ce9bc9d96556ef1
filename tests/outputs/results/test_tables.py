"""The results tables: exact columns, exact values, harmless in a spreadsheet."""

import csv
import errno

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pathology import atomic_files as atomic
from pathology.errors import OutputError, StoreError, UsageError
from pathology.outputs.results.tables import columns, read_results, results_frame, write_results

FIRST = (
    "slide_id,patient_id,path,status,prediction,most_probable_class,p_non-tumour,p_non-viable tumour,"
    "p_viable tumour,abstained_because,patches,patches_total,unreadable_tiles,tissue_mm2,seconds,reader,mpp,error"
)


@pytest.fixture
def results(make):
    return [
        make.result(warnings=("one", "two"), patient_id="P1", unreadable_tiles=2, masked_patches=1),
        make.result(
            slide_id="=cmd|' /C calc'!A0",
            status="abstained",
            abstained_because='p, "only" 0.4',
            prediction=None,
            most_probable_class="+1",
            tissue_mm2=0.1 + 0.2,
        ),
        make.result(
            slide_id="007",
            path="a\r\nb\udcff😀.svs",
            status="failed",
            classes=(),
            prediction=None,
            patches=0,
            tissue_mm2=None,
            seconds=None,
            reader=None,
            mpp=None,
            mpp_source=None,
            width=None,
            height=None,
            error="The file is empty.",
        ),
    ]


@pytest.fixture
def classes(card):
    return card.classes


def test_columns_are_the_contract(classes):
    names = columns(classes)
    assert ",".join(names[:18]) == FIRST
    assert len(set(names)) == len(names)
    assert {f"share_{name}" for name in classes} | {f"area_mm2_{name}" for name in classes} <= set(names[18:])


def test_both_files_read_back_equal(tmp_path, results, classes):
    write_results(tmp_path, results, classes)
    frame = results_frame(results, classes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.csv", "results.parquet"]
    for name in ("results.csv", "results.parquet"):
        pd.testing.assert_frame_equal(read_results(tmp_path / name), frame, check_exact=True)
    assert (tmp_path / "results.csv").read_text(encoding="utf-8").split("\n")[0].startswith(FIRST)


def test_values(results, classes):
    frame = results_frame(results, classes)
    assert list(frame.columns) == columns(classes)
    assert frame["slide_id"].tolist() == ["slide one", "=cmd|' /C calc'!A0", "007"]
    assert frame["p_viable tumour"].iloc[0] == 1 / 3
    assert np.isnan(frame["p_viable tumour"].iloc[2])
    assert frame["status"].tolist() == ["scored", "abstained", "failed"]
    assert frame["prediction"].isna().tolist() == [False, True, True]
    assert frame["most_probable_class"].iloc[1] == "+1"
    assert frame["tissue_mm2"].iloc[1] == 0.1 + 0.2
    assert frame["mpp"].isna().tolist() == [False, False, True]
    assert frame["width"].isna().tolist() == [False, False, True]
    assert frame["patient_id"].isna().tolist() == [False, True, True]
    assert frame["warnings"].iloc[0] == "one | two"
    assert frame["path"].iloc[2] == "a\r\nb\\udcff😀.svs"


def test_other_programs_read_them_as_they_stand(tmp_path, results, classes):
    write_results(tmp_path, results, classes)
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["p_viable tumour"] == repr(1 / 3)
    assert rows[1]["abstained_because"] == 'p, "only" 0.4'
    assert rows[2]["mpp"] == rows[2]["p_non-tumour"] == rows[2]["reader"] == ""
    assert [row["status"] for row in rows] == ["scored", "abstained", "failed"]
    # Missing values are nulls, not NaN, for programs that tell the two apart.
    assert pq.read_table(tmp_path / "results.parquet")["mpp"].null_count == 1


def test_no_text_cell_of_the_csv_is_a_formula(tmp_path, make, classes):
    names = ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "'=1", "''-", "'plain", "a=1", "'"]
    write_results(tmp_path, [make.result(slide_id=name) for name in names], classes)
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        cells = [row["slide_id"] for row in csv.DictReader(file)]
    assert cells == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", "''=1", "'''-", "'plain", "a=1", "'"]
    assert read_results(tmp_path / "results.csv")["slide_id"].tolist() == names
    assert read_results(tmp_path / "results.parquet")["slide_id"].tolist() == names


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(min_size=1), min_size=1, max_size=5),
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
)
def test_any_text_and_any_number_survives(tmp_path_factory, make, texts, numbers):
    folder = tmp_path_factory.mktemp("table")
    results = [
        make.result(slide_id=text, error=text, tissue_mm2=number) for text, number in zip(texts, numbers, strict=False)
    ]
    classes = make.card().classes
    write_results(folder, results, classes)
    frame = results_frame(results, classes)
    for name in ("results.csv", "results.parquet"):
        pd.testing.assert_frame_equal(read_results(folder / name), frame, check_exact=True)


def test_an_empty_batch_has_headings(tmp_path, classes):
    write_results(tmp_path, [], classes)
    for name in ("results.csv", "results.parquet"):
        frame = read_results(tmp_path / name)
        assert list(frame.columns) == columns(classes)
        assert len(frame) == 0


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch, results, classes):
    write_results(tmp_path, results[:1], classes)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OutputError, match="no space"):
        write_results(tmp_path, results, classes)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_class_without_a_column_is_refused(results):
    with pytest.raises(UsageError, match="non-tumour"):
        results_frame(results, ["something else"])


@pytest.mark.parametrize("content", [b"", b"a,b\r\n1,2\r\n", b"\xff\xfe", b'slide_id\r\n"open'])
@pytest.mark.parametrize("name", ["results.csv", "results.parquet"])
def test_what_is_no_results_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreError, match="not a results table"):
        read_results(tmp_path / name)


def test_a_row_cut_short_is_refused(tmp_path, results, classes):
    write_results(tmp_path, results[:1], classes)
    path = tmp_path / "results.csv"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoreError, match="not a results table"):
        read_results(path)
    with pytest.raises(FileNotFoundError):
        read_results(tmp_path / "none.csv")
