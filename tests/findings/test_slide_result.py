"""A detector's slide says how many mitoses it holds: in a line, in the tables, in the batch's report."""

import pytest

from pathology.findings.mitotic_count import HotspotCount, SlideMitoses
from pathology.findings.slide_result import SlideResult
from pathology.outputs.reports.batch import IndexEntry, batch_report
from pathology.outputs.results.tables import read_results, write_results


def slide(total=None, hotspot=None, **changes):
    mitoses = None
    if total is not None:
        mitoses = SlideMitoses(
            threshold=0.5,
            candidates=total,
            total=total,
            tissue_mm2=None,
            overall_per_mm2=2.5,
            hotspot=hotspot,
            expected_maximum=None,
            expected_maximum_interval=None,
            bias=None,
            clustering_p_value=None,
        )
    fields = {
        "slide_id": "s",
        "path": "/s.svs",
        "status": "scored",
        "model": "m 1",
        "model_sha256": "0",
        "mitoses": mitoses,
    }
    return SlideResult(**(fields | changes))


def spot(count, area_mm2, per_mm2):
    place = {"shape": "circle", "x": 0.0, "y": 0.0, "half_width": 1.0, "half_height": 1.0}
    return HotspotCount(
        **place, count=count, area_mm2=area_mm2, per_mm2=per_mm2, per_mm2_interval=(0.0, 99.0), per_fields={}
    )


SPOT = spot(47, 1.734, 27.1)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (slide(48, SPOT), "48 mitoses, 27.1 per mm² in the hotspot"),
        (slide(1, spot(1, 2.0, 0.5)), "1 mitosis, 0.5 per mm² in the hotspot"),
        (slide(0), "0 mitoses"),
        (slide(30_000), "30,000 mitoses"),
        (slide(), "not known"),
        (slide(prediction="LMS"), "LMS"),
    ],
)
def test_one_line(result, said):
    assert result.finding == said


def test_without_a_detector_there_is_no_count():
    assert slide().mitoses is None
    assert slide(0).mitoses.hotspot_per_mm2 == 0
    assert slide(30_000).mitoses.hotspot_per_mm2 is None


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_tables_hold_it(tmp_path, ending):
    write_results(tmp_path, [slide(48, SPOT), slide()], ["mitosis"])
    table = read_results(tmp_path / f"results.{ending}")
    first = table.iloc[0]
    assert (first["mitoses"], first["hotspot_mitoses"], first["hotspot_mm2"]) == (48, 47, 1.734)
    assert (first["mitoses_per_mm2"], first["hotspot_mitoses_per_mm2"]) == (2.5, 27.1)
    assert table.iloc[1][["mitoses", "hotspot_mm2"]].isna().all()


def test_the_batch_says_it():
    from pathology.testing.constructed_results import constructed_card

    page = batch_report([IndexEntry(slide(48, SPOT), None, None)], constructed_card())
    assert "48 mitoses, 27.1 per mm² in the hotspot" in page
    assert "not known" not in page.split("<tbody>")[1].split("</tbody>")[0]
