import pytest

from pathology.errors import InputTableError, UsageError
from pathology.scoring.select import read_manifest, select_slides


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_ids_are_stems_and_unique(tmp_path):
    touch(tmp_path, "a/one.svs", "b/one.svs", "b/one.tif", "two 🔬.svs", "notes.txt")
    ids = [entry.slide_id for entry in select_slides([tmp_path])]
    assert sorted(ids) == ["a-one", "b-one.svs", "b-one.tif", "two 🔬"]


def test_the_same_file_twice_is_one_slide(tmp_path):
    touch(tmp_path, "one.svs")
    assert len(select_slides([tmp_path, tmp_path / "one.svs"])) == 1


def test_names_that_no_folder_may_have(tmp_path):
    touch(tmp_path, 'a:b"c?.svs')
    assert select_slides([tmp_path])[0].slide_id == "a_b_c_"


def test_nothing_and_nowhere(tmp_path):
    with pytest.raises(UsageError, match="no slides were found"):
        select_slides([tmp_path])
    with pytest.raises(UsageError, match="no such file"):
        select_slides([tmp_path / "nothing"])


def manifest(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "slides.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_manifest(tmp_path):
    touch(tmp_path, "one.svs", "two.svs")
    path = manifest(tmp_path, "\ufeffslide_id,path,patient_id,mpp,note\nS1,one.svs,P1,0.25,hello\n,two.svs,,,\n")
    first, second = select_slides([path])
    assert (first.slide_id, first.patient_id, first.mpp) == ("S1", "P1", 0.25)
    assert (second.slide_id, second.patient_id, second.mpp) == ("two", None, None)
    assert first.path == tmp_path / "one.svs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,mpp\na.svs,1\n", "no column 'path'"),
        ("Path\na.svs\n", "Rename a column"),
        ("path\n", "lists no slides"),
        ("path,mpp\na.svs,big\n", r"line 2.*'big'"),
        ("path,mpp\na.svs,-1\n", r"line 2.*'-1'"),
        ("path,mpp\na.svs,nan\n", r"line 2.*'nan'"),
        ("path,slide_id\n,x\n", "'path' is empty"),
        ("path,slide_id\na.svs,x/y\n", "is not a valid folder name"),
        ("path,slide_id\na.svs,x\nb.svs,x\n", "given twice"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(tmp_path, text, message):
    touch(tmp_path, "a.svs", "b.svs")
    with pytest.raises(InputTableError, match=message):
        select_slides([manifest(tmp_path, text)])


def test_a_manifest_in_another_encoding(tmp_path):
    with pytest.raises(InputTableError, match="not UTF-8"):
        read_manifest(manifest(tmp_path, "path\nlé.svs\n", "latin-1"))


def test_a_slide_of_a_manifest_that_is_not_there_is_left_to_fail_alone(tmp_path):
    touch(tmp_path, "a.svs")
    entries = select_slides([manifest(tmp_path, "path\na.svs\ngone.svs\n")])
    assert [entry.slide_id for entry in entries] == ["a", "gone"]
