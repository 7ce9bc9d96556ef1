from pathlib import Path

import pytest

from pathology.errors import InputTableError, UsageError
from pathology.evaluation.labels import read_labels
from pathology.scoring.select import SlideEntry

CLASSES = ("ARMS", "ERMS")


def entries(*names):
    return [SlideEntry(name, Path(f"/slides/{name}.svs"), None, 0.25) for name in names]


def table(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_joined_to_the_slides(tmp_path):
    path = table(
        tmp_path,
        "slide_id,patient_id,label,site,age\n"
        "a,p1,arms,north,7\n"
        "B.svs,p2,embryonal rhabdomyosarcoma,south,\n"
        "c,p1,ARMS,north,7\n",
    )
    found = read_labels(path, entries("a", "b", "c", "d"), CLASSES)
    assert [s.slide_id for s in found.slides] == ["a", "b", "c"]
    assert found.labels == [0, 1, 0]
    assert found.patients_by_class() == [["p1"], ["p2"]]
    assert found.unlabelled == ("d",)
    assert found.slides[0].mpp == 0.25
    assert found.slides[1].site == "south"
    assert found.slides[0].columns == {"age": "7"}


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("slides,patient_id,label\na,p,ARMS\n", "no column 'slide_id' .*instead of 'slides'", "labels.csv"),
        ("slide_id,patient_id,label\na,Smith, John,ARMS\n", "more values than the header has columns", "line 2"),
        ("slide_id,patient_id\na,p\n", "no column 'label'", "labels.csv"),
        ("slide_id,patient_id,label\na,p,LMS\n", r"'LMS' \(LMS\) is not one of the classes.*ARMS, ERMS", "line 2"),
        ("slide_id,patient_id,label\na,p,nonsense\n", "'nonsense' is not one of the classes", "line 2"),
        ("slide_id,patient_id,label\na,p,RMS\n", "covers several entities.*ARMS", "line 2"),
        ("slide_id,patient_id,label\na,,ARMS\n", "'patient_id' is empty", "line 2"),
        ("slide_id,patient_id,label\na,p,ARMS\nz,p,ARMS\n", "1 labelled slides not found: z", "labels.csv"),
        ("slide_id,patient_id,label\na,p,ARMS\na,p,ARMS\n", r"slides are duplicated: a \(lines 2, 3\)", "labels.csv"),
        ("slide_id,patient_id,label\na,p,ARMS\nb,p,ERMS\n", "have two classes: p is ARMS and ERMS", "labels.csv"),
        ("slide_id,patient_id,label,set\na,p,ARMS,train\nb,q,ERMS,\n", "'set' is empty for 1 slides: b", "labels.csv"),
        ("slide_id,patient_id,label,set\na,p,ARMS,tune\n", "set 'tune' is unknown", "line 2"),
        ("slide_id,patient_id,label,regions\na,p,ARMS,gone.geojson\n", "region file", "line 2"),
        ("slide_id,patient_id,label\n", "has no rows", "labels.csv"),
        ("", "no column 'slide_id'", "labels.csv"),
    ],
)
def test_each_mistake_is_named(tmp_path, text, what, where):
    path = table(tmp_path, text)
    with pytest.raises(InputTableError, match=what) as caught:
        read_labels(path, entries("a", "b"), CLASSES)
    assert where in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_with_two_patients_is_refused(tmp_path):
    rows = "".join(f"s{i},p{i},{'ARMS' if i < 2 else 'ERMS'}\n" for i in range(8))
    path = table(tmp_path, "slide_id,patient_id,label\n" + rows)
    slides = entries(*(f"s{i}" for i in range(8)))
    with pytest.raises(InputTableError, match=r"class ARMS has 2 patients \(p0, p1\).*at least 4"):
        read_labels(path, slides, CLASSES, patients_per_class=4)
    assert len(read_labels(path, slides, CLASSES, patients_per_class=2)) == 8


def test_a_near_name_is_suggested(tmp_path):
    path = table(tmp_path, "slide_id,patient_id,label\ntumour-1O,p,ARMS\n")
    with pytest.raises(InputTableError, match="tumour-10\\?"):
        read_labels(path, entries("tumour-10"), CLASSES)


def test_a_table_that_is_no_text_or_not_there(tmp_path):
    binary = tmp_path / "labels.csv"
    binary.write_bytes(b"slide_id,patient_id,label\n\xff\xfe\x00,p,x\n")
    with pytest.raises(InputTableError, match="UTF-8"):
        read_labels(binary, entries("a"), CLASSES)
    with pytest.raises(InputTableError, match="file not found"):
        read_labels(tmp_path / "none.csv", entries("a"), CLASSES)
    with pytest.raises(UsageError, match="two different"):
        read_labels(binary, entries("a"), ["one"])


def test_label_tables_of_other_programs(data_dir):
    slides = [SlideEntry("CMU-1-Small-Region", Path("/slides/CMU-1-Small-Region.svs"))]
    paths = sorted((data_dir / "cases" / "labels").glob("*.csv"))
    assert len(paths) >= 6
    for path in paths:
        if path.name == "latin1.csv":
            with pytest.raises(InputTableError, match=r"not UTF-8 text .*Köln"):
                read_labels(path, slides, ["LMS", "MFS"], patients_per_class=0)
            continue
        found = read_labels(path, slides, ["LMS", "MFS"], patients_per_class=0).slides
        assert [(s.slide_id, s.patient_id, s.label) for s in found] == [("CMU-1-Small-Region", "p1", 0)], path.name


def test_a_path_names_its_slide_even_if_another_has_the_same_file_name(tmp_path):
    slides = [SlideEntry("a-one", Path("/a/one.svs")), SlideEntry("b-one", Path("/b/one.svs"))]
    path = table(tmp_path, "filename;case_id;diagnosis\n/b/one.svs;p;ARMS\n/a/one.svs;q;ERMS\n")
    assert [slide.slide_id for slide in read_labels(path, slides, CLASSES).slides] == ["b-one", "a-one"]
    with pytest.raises(InputTableError, match="1 labelled slides not found"):
        read_labels(table(tmp_path, "slide_id,patient_id,label\n/c/one.svs,p,ARMS\n"), slides, CLASSES)
