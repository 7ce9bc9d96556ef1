"""The clinical table: what is right is read, what is wrong is named with its row."""

import datetime as dt

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import InputTableError, UsageError
from pathology.patient.clinical import FIELDS, read_clinical, validate_clinical

TODAY = dt.date(2024, 6, 1)
GOOD = {
    "Patient": ["b", "a"],
    "Age": ["61", "49.5"],
    "Gender": ["F", "male"],
    "histological type": ["Leiomyosarcoma (LMS)", "something else"],
    "OS": ["1", "0.0"],
    "OS.time": ["100", "2000"],
    "diagnosis_date": ["2020-01-31", ""],
    "death_date": ["2020-05-10", ""],
    "hospital": ["x", "y"],
    "score": ["1", "2.5"],
}


def _table(**changes):
    return pd.DataFrame({**GOOD, **changes})


def test_a_good_table():
    table = validate_clinical(_table(), today=TODAY)
    assert table.rows.index.tolist() == ["a", "b"]
    b = table.rows.loc["b"]
    assert (b["age_years"], b["sex"], b["os_event"], b["os_days"]) == (61, "female", 1, 100)
    assert b["histotype"] == "LMS"
    assert pd.isna(table.rows.loc["a", "histotype"])
    assert pd.isna(table.rows.loc["a", "death_date"])
    assert table.outside == ("hospital", "score")
    assert table.rows.loc["a", "score"] == 2.5
    assert table.renamed["age_years"] == "Age"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Patient": ["a", "a"]}, "row 3: patient 'a' duplicates row 2"),
        ({"Patient": ["a", ""]}, "row 3: patient_id is empty"),
        ({"Age": ["old", "49"]}, "row 2: age_years is 'old', expected a number in years"),
        ({"Age": ["61,5", "49"]}, r"write 1\.5, not 1,5"),
        ({"Age": ["161", "49"]}, "row 2: age_years is '161', expected 0 to 120 years"),
        ({"OS.time": ["100", "-3"]}, "row 3: os_days is '-3', expected 0 to"),
        ({"OS": ["2", "0"]}, "row 2: os_event is '2', expected 1, 0"),
        ({"Gender": ["F", "horse"]}, "row 3: sex is 'horse', expected female, male, other"),
        ({"diagnosis_date": ["2020-02-30", ""]}, "row 2: diagnosis_date is '2020-02-30', expected a valid date"),
        ({"diagnosis_date": ["31.01.2020", ""]}, "YYYY-MM-DD"),
        ({"diagnosis_date": ["2030-01-01", ""]}, "expected a date from 1900-01-01 to 2024-06-01"),
        ({"death_date": ["2019-05-10", ""]}, "row 2: death_date 2019-05-10 is before diagnosis_date 2020-01-31"),
        ({"OS": ["0", "0"]}, "row 2: death_date is set but os_event is 0"),
        ({"DSS": ["0", "1"], "DSS.time": ["1", "1"]}, "row 3: dss_event is 1"),
        ({"Age": ["inf", "3"]}, "expected a finite number"),
    ],
)
def test_mistakes_name_their_row(changes, message):
    with pytest.raises(InputTableError, match=message):
        validate_clinical(_table(**changes), today=TODAY)


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(InputTableError, match="2 problems") as caught:
        validate_clinical(_table(Age=["old", "young"]), today=TODAY)
    assert "row 2" in str(caught.value)
    assert "row 3" in str(caught.value)
    many = pd.DataFrame({"patient_id": [f"P{i}" for i in range(50)], "age": ["x"] * 50})
    with pytest.raises(InputTableError, match=r"50 problems.*and 30 more"):
        validate_clinical(many)


def test_what_is_odd_is_said_and_kept():
    table = validate_clinical(
        pd.DataFrame({"patient": ["a", "b"], "PFI.time": ["90", "1"], "OS.time": ["80", "2"], "DFI": ["1", ""]})
    )
    assert table.warnings == (
        "row 2: dfi_event without dfi_days: not used for survival",
        "row 2: pfi_days 90 is more than os_days 80",
    )


def test_columns_can_be_named_and_must_be_clear():
    table = pd.DataFrame({"Fall": ["a"], "Alter": ["50"]})
    with pytest.raises(InputTableError, match="no patient ID column"):
        validate_clinical(table)
    rows = validate_clinical(table, columns={"patient_id": "Fall", "age_years": "Alter"}).rows
    assert rows.loc["a", "age_years"] == 50
    with pytest.raises(UsageError, match="not a column of the vocabulary"):
        validate_clinical(table, columns={"alter": "Alter"})
    with pytest.raises(InputTableError, match="column 'Alt' not found"):
        validate_clinical(table, columns={"age_years": "Alt"})
    with pytest.raises(InputTableError, match="'age' and 'age_years' both match age_years"):
        validate_clinical(pd.DataFrame({"patient": ["a"], "age": [1], "age_years": [2]}))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_cell_holds_it_is_read_or_named(data):
    column = data.draw(st.sampled_from([f.name for f in FIELDS if f.name != "patient_id"]))
    value = data.draw(st.one_of(st.text(max_size=8), st.floats(allow_nan=False).map(str), st.dates().map(str)))
    try:
        table = validate_clinical(pd.DataFrame({"patient_id": ["a"], column: [value]}))
    except InputTableError as error:
        message = str(error)
    else:
        message = "row 2" if column in table.rows else ""
    assert "row 2" in message


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "xlsx"])
def test_every_kind_of_file(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    frame = pd.DataFrame({"patient": ["007", "8"], "age": ["50", ""]})
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    assert read_clinical(path).rows.index.tolist() == ["007", "8"]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputTableError, match="file not found"):
        read_clinical(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputTableError, match="cannot be read"):
        read_clinical(tmp_path / "empty.csv")


def test_the_real_tables_are_read(data_dir):
    tcga = read_clinical(data_dir / "survival" / "tcga_sarc_clinical.csv")
    assert len(tcga.rows) == 198
    assert tcga.rows["os_event"].sum() == 73
    assert (tcga.rows["histotype"] == "LMS").sum() == 83
    sts = read_clinical(data_dir / "radiology" / "sts_clinical.csv")
    assert len(sts.rows) == 43
    assert sts.rows["grade"].value_counts().to_dict() == {"high": 25, "intermediate": 11, "low": 4}
