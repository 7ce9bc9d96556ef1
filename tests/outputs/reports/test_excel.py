"""The Excel sheet: units in the heads, numbers as numbers, text as text."""

import numpy as np
import pytest

from pathology.errors import OutputError
from pathology.findings.mitotic_count import SlideMitoses, count_mitoses
from pathology.outputs.reports.excel import write_excel

openpyxl = pytest.importorskip("openpyxl")


def sheet(path, name="Slides"):
    book = openpyxl.load_workbook(path)
    rows = list(book[name].iter_rows())
    book.close()
    return [cell.value for cell in rows[0]], rows[1:]


def test_numbers_are_numbers_and_heads_have_units(make, tmp_path):
    results = [
        make.result(),
        make.result(slide_id="two", status="failed", error="cut off", classes=(), prediction=None),
    ]
    write_excel(tmp_path / "a.xlsx", results)
    heads, rows = sheet(tmp_path / "a.xlsx")
    first = dict(zip(heads, rows[0], strict=True))
    assert first["Tissue (mm²)"].value == 4.5
    assert first["Tissue (mm²)"].data_type == "n"
    assert first["Scale (µm/px)"].value == 0.5
    assert first["Time (s)"].value == 3.2
    assert first["Probability of viable tumour (0 to 1)"].value == pytest.approx(1 / 3)
    assert first["Area of viable tumour (mm²)"].value == 1.5
    second = dict(zip(heads, rows[1], strict=True))
    assert second["Reason"].value == "cut off"
    assert second["Probability of viable tumour (0 to 1)"].value is None
    assert len(rows) == 2


def test_every_column_is_explained(make, tmp_path):
    write_excel(tmp_path / "a.xlsx", [make.result()])
    heads, _ = sheet(tmp_path / "a.xlsx")
    _, about = sheet(tmp_path / "a.xlsx", "Columns")
    explained = {row[0].value: (row[1].value, row[2].value) for row in about if row[0].value}
    for head in heads:
        unit, meaning = explained[head]
        assert meaning
        assert not unit or head.endswith(f"({unit})")
    assert any("Research use only" in str(name) for name in explained)


def test_mitoses_have_columns_only_where_there_are_any(make, tmp_path):
    write_excel(tmp_path / "a.xlsx", [make.result()])
    assert not any("Mitoses" in head for head in sheet(tmp_path / "a.xlsx")[0])
    counted = count_mitoses(np.full((7, 2), 10.0), 0.25, simulations=2)
    mitoses = SlideMitoses(threshold=0.5, candidates=9, **dict(counted) | {"total": 12, "overall_per_mm2": 2.7})
    write_excel(tmp_path / "b.xlsx", [make.result(mitoses=mitoses)])
    heads, rows = sheet(tmp_path / "b.xlsx")
    first = dict(zip(heads, rows[0], strict=True))
    assert first["Mitoses (count)"].value == 12
    assert first["Hotspot density (1/mm²)"].value == pytest.approx(7 / 1.734)


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "\x00\x1f", "a" * 40_000, "\udcff", "=cmd|'/C calc'!A0"]
)
def test_no_text_is_a_formula_and_none_breaks_the_sheet(make, tmp_path, name):
    write_excel(tmp_path / "a.xlsx", [make.result(slide_id=name, warnings=(name,))])
    heads, rows = sheet(tmp_path / "a.xlsx")
    cell = rows[0][heads.index("Slide")]
    assert cell.data_type in ("s", "n", "inlineStr")  # openpyxl reads an empty one as a number
    if name.startswith(("=", "+", "-", "@")):
        assert (cell.value, cell.data_type) == (name, "s")


def test_an_unwritable_place_is_an_error(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_excel(tmp_path / "file" / "a.xlsx", [make.result()])
