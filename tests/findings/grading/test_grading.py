"""Every row of every table, and refusal where an input is missing."""

import itertools
import pickle

import pytest

from pathology.errors import UsageError
from pathology.findings.grading.ajcc import STAGES, stage_ajcc8, t_category
from pathology.findings.grading.assessment import MissingInputsError, MitosesInArea, NotApplicableError
from pathology.findings.grading.fnclcc import (
    DIFFERENTIATION,
    differentiation_score,
    grade_fnclcc,
    mitotic_cutoffs_per_mm2,
    mitotic_score,
    necrosis_score,
)
from pathology.findings.grading.uterine import STANFORD, assess_uterine
from pathology.findings.vocabulary import find_histotype, histotypes

# FNCLCC -----------------------------------------------------------------------------------------------------------

ONE_OF_EACH = {1: "WDLPS", 2: "MFS", 3: "UPS"}
MITOSES = {1: 9, 2: 10, 3: 20}
NECROSIS = {0: 0, 1: 49, 2: 50}

# Differentiation, mitoses, necrosis -> grade, written out by hand.
FNCLCC = """
1 1 0 1 | 1 1 1 1 | 1 1 2 2 | 1 2 0 1 | 1 2 1 2 | 1 2 2 2 | 1 3 0 2 | 1 3 1 2 | 1 3 2 3
2 1 0 1 | 2 1 1 2 | 2 1 2 2 | 2 2 0 2 | 2 2 1 2 | 2 2 2 3 | 2 3 0 2 | 2 3 1 3 | 2 3 2 3
3 1 0 2 | 3 1 1 2 | 3 1 2 3 | 3 2 0 2 | 3 2 1 3 | 3 2 2 3 | 3 3 0 3 | 3 3 1 3 | 3 3 2 3
"""


@pytest.mark.parametrize("row", [r.split() for line in FNCLCC.strip().splitlines() for r in line.split("|")])
def test_fnclcc_grade(row):
    differentiation, mitotic, necrotic, grade = map(int, row)
    result = grade_fnclcc(
        histotype=ONE_OF_EACH[differentiation],
        histotype_confirmed=True,
        mitoses=MitosesInArea(count=MITOSES[mitotic], area_mm2=1.734),
        necrosis_percent=NECROSIS[necrotic],
        pretreated=False,
    )
    assert result.result == f"grade {grade}"
    assert [p.result for p in result.parts] == [str(differentiation), str(mitotic), str(necrotic), str(grade)]
    assert all(p.source for p in result.parts)


def test_fnclcc_table_has_every_combination():
    rows = [tuple(r.split()[:3]) for line in FNCLCC.strip().splitlines() for r in line.split("|")]
    assert set(rows) == set(itertools.product("123", "123", "012"))


@pytest.mark.parametrize(
    ("count", "score"), [(0, 1), (9, 1), (9.99, 1), (10, 2), (19, 2), (19.99, 2), (20, 3), (500, 3)]
)
def test_mitotic_score(count, score):
    assert mitotic_score(count) == score


@pytest.mark.parametrize(("percent", "score"), [(0, 0), (0.5, 1), (49.9, 1), (50, 2), (100, 2)])
def test_necrosis_score(percent, score):
    assert necrosis_score(percent) == score


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("well-differentiated liposarcoma", 1),
        ("myxoid liposarcoma", 2),
        ("myxofibrosarcoma", 2),
        ("conventional leiomyosarcoma", 2),
        ("dedifferentiated liposarcoma", 3),
        ("synovial sarcoma", 3),
        ("embryonal rhabdomyosarcoma", 3),
        ("alveolar rhabdomyosarcoma", 3),
        ("UPS", 3),
        ("clear cell sarcoma", 3),
        ("ESFT", 3),
    ],
)
def test_differentiation_score(name, score):
    assert differentiation_score(name) == score


def test_every_histotype_has_a_score_with_its_source():
    assert {h.code for h in histotypes()} == set(DIFFERENTIATION)
    assert all(score in {1, 2, 3} and source for score, source in DIFFERENTIATION.values())


def test_cutoffs_per_mm2():
    assert mitotic_cutoffs_per_mm2() == pytest.approx((5.77, 11.53), abs=0.005)


def test_the_area_counts_not_the_number_of_fields():
    # 12 mitoses in ten modern fields are 8.8 in ten of the system's.
    result = grade_fnclcc(
        histotype="LMS",
        histotype_confirmed=True,
        mitoses=MitosesInArea(count=12, area_mm2=2.37, origin="model"),
        necrosis_percent=0,
        pretreated=False,
    )
    assert result.parts[1].result == "1"
    assert result.parts[1].origin == "model"
    assert any("would score 2 instead of 1" in note for note in result.notes)


COMPLETE = {
    "histotype": "LMS",
    "histotype_confirmed": True,
    "mitoses": MitosesInArea(count=1, area_mm2=1.734),
    "necrosis_percent": 0.0,
    "pretreated": False,
}


@pytest.mark.parametrize("left_out", list(COMPLETE))
def test_fnclcc_refuses_without(left_out):
    with pytest.raises(MissingInputsError) as caught:
        grade_fnclcc(**{k: v for k, v in COMPLETE.items() if k != left_out})
    assert len(caught.value.missing) == 1


def test_refusal_lists_all_that_is_missing_and_survives_pickling():
    with pytest.raises(MissingInputsError) as caught:
        grade_fnclcc()
    assert len(caught.value.missing) == 5
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.missing == caught.value.missing
    with pytest.raises(MissingInputsError, match="confirmation"):
        grade_fnclcc(**COMPLETE | {"histotype_confirmed": False})


def test_no_grade_after_treatment_and_none_for_unclear_names():
    with pytest.raises(NotApplicableError, match="after chemotherapy"):
        grade_fnclcc(**COMPLETE | {"pretreated": True})
    with pytest.raises(UsageError, match="UPS, MFS, DDLPS"):
        grade_fnclcc(**COMPLETE | {"histotype": "MFH"})
    with pytest.raises(UsageError, match="0 to 100"):
        grade_fnclcc(**COMPLETE | {"necrosis_percent": 101})


# Uterus ------------------------------------------------------------------------------------------------------------

LMS = "leiomyosarcoma"
UTERINE = [
    *[(True, "diffuse moderate to severe", n, LMS) for n in (0, 4, 5, 9, 10, 19, 20, 80)],
    *[(True, "none to mild", n, "low malignant potential") for n in (0, 4, 5, 9)],
    *[(True, "none to mild", n, LMS) for n in (10, 19, 20, 80)],
    *[(True, "focal moderate to severe", n, "uncertain") for n in (0, 4, 5, 9)],
    *[(True, "focal moderate to severe", n, LMS) for n in (10, 19, 20)],
    *[(False, "diffuse moderate to severe", n, "low risk of recurrence") for n in (0, 4, 5, 9)],
    *[(False, "diffuse moderate to severe", n, LMS) for n in (10, 19, 20)],
    *[(False, "focal moderate to severe", n, "atypical leiomyoma, limited") for n in (0, 5, 19)],
    (False, "focal moderate to severe", 20, "uncertain"),
    *[(False, "none to mild", n, "leiomyoma") for n in (0, 4)],
    *[(False, "none to mild", n, "leiomyoma with increased mitotic index") for n in (5, 9, 10, 19)],
    *[(False, "none to mild", n, "increased mitotic index, limited") for n in (20, 50)],
]


@pytest.mark.parametrize(("necrosis", "atypia", "count", "expected"), UTERINE)
def test_stanford(necrosis, atypia, count, expected):
    result = assess_uterine(
        site="uterus",
        subtype="spindle",
        coagulative_necrosis=necrosis,
        atypia=atypia,
        mitoses=MitosesInArea(count=count, area_mm2=2.37),
    )
    assert expected in result.result
    if expected in {LMS, "leiomyoma"}:
        assert result.result == expected


def test_stanford_table_is_whole():
    combinations = {(r.necrosis, r.atypia, r.least, r.most) for r in STANFORD}
    assert len(combinations) == len(STANFORD) == 24
    for necrosis, atypia in {(r.necrosis, r.atypia) for r in STANFORD}:
        limits = {(r.least, r.most) for r in STANFORD if (r.necrosis, r.atypia) == (necrosis, atypia)}
        assert limits == {(0, 4), (5, 9), (10, 19), (20, None)}
    assert all("published" in r.source or "derived" in r.source for r in STANFORD)


@pytest.mark.parametrize(
    ("subtype", "count", "met"),
    [
        ("spindle", 9, False),
        ("spindle", 10, True),
        ("epithelioid", 3, False),
        ("epithelioid", 4, True),
        ("myxoid", 0, False),
        ("myxoid", 1, True),
    ],
)
def test_who_thresholds_per_mm2(subtype, count, met):
    result = assess_uterine(
        site="uterus",
        subtype=subtype,
        coagulative_necrosis=False,
        atypia="none to mild",
        mitoses=MitosesInArea(count=count, area_mm2=2.37),
    )
    assert result.parts[-1].result.startswith("at or above" if met else "below")
    assert ("not classified" in result.result) == (subtype != "spindle")


def test_uterine_refusals():
    with pytest.raises(MissingInputsError) as caught:
        assess_uterine(site="uterus", subtype="spindle")
    assert len(caught.value.missing) == 3
    with pytest.raises(NotApplicableError, match="retroperitoneum"):
        assess_uterine(
            site="retroperitoneum",
            subtype="spindle",
            coagulative_necrosis=False,
            atypia="none to mild",
            mitoses=MitosesInArea(count=0, area_mm2=2.37),
        )


# AJCC --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "t"), [(0.1, "T1"), (5, "T1"), (5.1, "T2"), (10, "T2"), (10.1, "T3"), (15, "T3"), (15.1, "T4"), (40, "T4")]
)
def test_t_category(size, t):
    assert t_category(size) == t


EXPECTED = {
    ("T1", 1): "IA",
    **{(t, 1): "IB" for t in ("T2", "T3", "T4")},
    **{("T1", g): "II" for g in (2, 3)},
    **{("T2", g): "IIIA" for g in (2, 3)},
    **{(t, g): "IIIB" for t in ("T3", "T4") for g in (2, 3)},
}
SIZES = {"T1": 3, "T2": 8, "T3": 12, "T4": 20}


@pytest.mark.parametrize(
    ("t", "nodes", "metastasis", "grade"),
    list(itertools.product(SIZES, ("N0", "N1", "unknown"), ("M0", "M1"), (1, 2, 3))),
)
def test_stage(t, nodes, metastasis, grade):
    result = stage_ajcc8(site="extremity", size_cm=SIZES[t], nodes=nodes, metastasis=metastasis, grade=grade)
    expected = "IV" if nodes == "N1" or metastasis == "M1" else EXPECTED[t, grade]
    assert result.result == f"stage {expected}"
    assert bool(result.notes) == (nodes == "unknown")
    assert all(p.source for p in result.parts)


def test_stage_rows_do_not_overlap():
    for t, n, m, g in itertools.product(SIZES, ("N0", "N1"), ("M0", "M1"), (1, 2, 3)):
        assert sum(t in r.t and n in r.nodes and m in r.metastasis and g in r.grades for r in STAGES) == 1


def test_stage_refusals():
    with pytest.raises(MissingInputsError) as caught:
        stage_ajcc8(size_cm=4)
    assert len(caught.value.missing) == 4
    complete = {"size_cm": 4, "nodes": "N0", "metastasis": "M0", "grade": 2}
    with pytest.raises(NotApplicableError, match="retroperitoneum"):
        stage_ajcc8(site="retroperitoneum", **complete)
    with pytest.raises(UsageError, match="1, 2 or 3"):
        stage_ajcc8(site="trunk", **complete | {"grade": 4})
    with pytest.raises(UsageError, match="above 0 cm"):
        stage_ajcc8(site="trunk", **complete | {"size_cm": 0})


def test_every_row_of_every_table_names_its_source():
    assert all(row.source.startswith("AJCC 8th edition") for row in STAGES)
    assert all(row.source.startswith("Bell 1994") for row in STANFORD)
    assert all(source for _, source in DIFFERENTIATION.values())
    fnclcc = grade_fnclcc(**COMPLETE)
    assert all(part.source for part in fnclcc.parts)


def test_the_scores_that_the_published_table_gives_by_name():
    """FNCLCC differentiation by histotype, read from the published table and not from the code."""
    given = {
        1: ["WDLPS"],
        2: ["MLPS", "MFS", "LMS"],
        3: ["DDLPS", "SS", "ERMS", "ARMS", "UPS", "CCS", "ES"],
    }
    for score, names in given.items():
        for name in names:
            assert differentiation_score(name) == score, name


# Vocabulary --------------------------------------------------------------------------------------------------------


def test_names_lead_to_one_entity():
    assert find_histotype("Synovial Sarcoma, NOS").code == "SS"
    assert find_histotype("dedifferentiated-liposarcoma").code == "DDLPS"
    assert find_histotype("UPS") is find_histotype("undifferentiated pleomorphic sarcoma")
    with pytest.raises(UsageError, match="several entities"):
        find_histotype("malignant fibrous histiocytoma")
    with pytest.raises(UsageError, match="unknown histotype 'glioma'"):
        find_histotype("glioma")


def test_no_name_is_used_twice():
    names = [name.lower() for h in histotypes() for name in {h.code, h.name, *h.synonyms}]
    assert len(names) == len(set(names))
