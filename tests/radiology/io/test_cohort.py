import pytest

from pathology.errors import InputTableError, UsageError
from pathology.radiology.io.cohort import modality_of, read_cohort
from pathology.radiology.io.errors import StudyError
from pathology.testing.radiology_constructed import readers_cohort, two_sequence_cohort
from pathology.testing.radiology_dicom_write import write_contours, write_series


def test_modalities_follow_from_names():
    assert [modality_of(n) for n in ("CT", "CT_native", "PET", "PT", "OCT", "MR_T1", "T2FS", "DWI")] == [
        "CT",
        "CT",
        "PT",
        "PT",
        "OCT",
        "MR",
        "MR",
        "MR",
    ]


def test_cohort_reads_images_masks_and_table(tmp_path):
    cohort = two_sequence_cohort(tmp_path, patients=4, size=16)
    assert cohort.patients == ("C000", "C001", "C002", "C003")
    assert set(cohort.cases[0].images) == {"T1GD", "DWI"}
    opened = cohort.cases[0].open("DWI")
    assert opened.volume.name == "DWI"
    assert cohort.cases[0].contours("DWI", opened)[0].array.any()
    assert list(cohort.labels("class", ("same", "different"))) == [0, 1, 1, 0]
    with pytest.raises(StudyError, match="sequence 'CT' not found, available: DWI, T1GD"):
        cohort.cases[0].open("CT")
    with pytest.raises(InputTableError, match="no column 'grade'"):
        cohort.column("grade")
    with pytest.raises(InputTableError, match="expected one of a, b"):
        cohort.labels("class", ("a", "b"))
    with pytest.raises(UsageError, match="no patient has CT"):
        cohort.having(("CT",))


def test_several_contours_of_one_tumour(tmp_path):
    cohort = readers_cohort(tmp_path, patients=1, readers=3, size=32)
    case = cohort.cases[0]
    contours = case.contours("CT", case.open("CT"))
    assert len(contours) == 3
    assert len({int(c.array.sum()) for c in contours}) > 1


def test_dicom_folders_are_cases_too(tmp_path, mr):
    image, mask = mr
    series = write_series(image, tmp_path / "P1" / "MR_T1_image", pseudonym="P1")
    write_contours(mask, series, tmp_path / "P1" / "MR_T1_mask.dcm")
    (tmp_path / "notes").mkdir()
    cohort = read_cohort(tmp_path)
    case = cohort.cases[0]
    assert case.contours("MR_T1", case.open("MR_T1"))[0].volume_mm3 == mask.volume_mm3


def test_tables_with_gaps_and_whole_numbers(tmp_path):
    two_sequence_cohort(tmp_path, patients=3, size=16)
    table = tmp_path / "own.csv"
    table.write_text("patient,y\nC000,1\nC001,\nC002,0\n")
    cohort = read_cohort(tmp_path / "images", table)
    assert list(cohort.having(("DWI",), "y").labels("y", ("0", "1"))) == [1, 0]
    table.write_text("patient,y\nC000,1\nC000,0\n")
    with pytest.raises(InputTableError, match="C000 has 2 rows"):
        read_cohort(tmp_path / "images", table)
    table.write_text("id,y\nC000,1\n")
    with pytest.raises(InputTableError, match="missing column 'patient'"):
        read_cohort(tmp_path / "images", table)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no subfolder contains an image"):
        read_cohort(tmp_path / "empty")
    with pytest.raises(UsageError, match="folder not found"):
        read_cohort(tmp_path / "nowhere")
