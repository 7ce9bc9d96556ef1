import pytest

from pathology.errors import InputTableError, SlideNotFoundError, UsageError
from pathology.scoring.select import read_manifest, select_slides
from pathology.slide.open import open_reader


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
    with pytest.raises(UsageError, match="no slides found"):
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
        ("name,mpp\na.svs,1\n", "no column 'path' .*separated by comma: name, mpp"),
        ("pathe\na.svs\n", "instead of 'pathe'"),
        ("file,filename\na.svs,b.svs\n", "several columns for 'path': 'filename' and 'file'|'file' and 'filename'"),
        ("path,mpp\na.svs,499\n", r"line 2.*'499'.*between 0.05 and 20"),
        ("path,slide_id,mpp\na.svs,x,1,5\n", r"line 2.*1,5 may be one number"),
        ("path,slide_id\na, b.svs,x,y\n", r"line 2.*more values than the header"),
        ('path,slide_id\n"a.svs,x\n', "quotation marks"),
        ("path,patient_id\na.svs,P1\na.svs,P2\n", "lines 2 and 3 list the same file"),
        ("path\n", "lists no slides"),
        ("path,mpp\na.svs,big\n", r"line 2.*'big'"),
        ("path,mpp\na.svs,-1\n", r"line 2.*'-1'"),
        ("path,mpp\na.svs,nan\n", r"line 2.*'nan'"),
        ("path,slide_id\n,x\n", "'path' is empty"),
        ("path,slide_id\na.svs,x/y\n", "is not a valid folder name"),
        ("path,slide_id\na.svs,x\nb.svs,x\n", "'x' in lines 2 and 3"),
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


A = ("a", "CMU-1-Small-Region.svs", None)
SMALL = ("CMU-1-Small-Region", "CMU-1-Small-Region.svs")
JP2 = "CMU-1-Small-Region.jp2.tiff"
READ_AS = {
    "backslash.csv": [("a", "x.svs", None)],
    "blank_lines.csv": [(*A[:2], 0.5)],
    "bom_crlf.csv": [(*A[:2], 0.5), ("b", JP2, 0.5)],
    "capital_header.csv": [A],
    "decimal_comma.csv": [(*A[:2], 0.5)],
    "dup_ids.csv": "'a' in lines 2 and 3",
    "empty_rows.csv": [(*A[:2], 0.5)],
    "excel_sep.csv": [A],
    "excess_columns.csv": [A],
    "file_header.csv": [(*SMALL, 0.5)],
    "home.csv": [("x", "x.svs", None)],
    "latin1.csv": "not UTF-8 text .line 2, perhaps 'Größe.svs,a'",
    "manifest.tsv": [A],
    "manifest.txt": [(*SMALL, None), ("CMU-1-Small-Region.jp2", JP2, None)],
    "padded_header.csv": [A],
    "same_path_two_ids.csv": [("S1", SMALL[1], None), ("S2", SMALL[1], None)],
    "semicolon.csv": [(*A[:2], 0.5), ("b", JP2, 0.5)],
    "semicolon_one_column.csv": [(*SMALL, None), ("CMU-1-Small-Region.jp2", JP2, None)],
    "tab.csv": [A],
    "upper.CSV": [A],
    "utf16.csv": [A],
    "wsi_header.csv": [(*SMALL, 0.5)],
}


def test_manifests_of_other_programs(data_dir):
    """Sources: mahmoodlab/TRIDENT issues 105 and 153, clemsgrs/hs2p manifests, spreadsheets."""
    folder = data_dir / "cases" / "manifests"
    assert {path.name for path in folder.iterdir()} - {"README"} == set(READ_AS)
    for name, right in READ_AS.items():
        if isinstance(right, str):
            with pytest.raises(InputTableError, match=right):
                select_slides([folder / name])
        else:
            found = select_slides([folder / name])
            assert [(entry.slide_id, entry.path.name, entry.mpp) for entry in found] == right, name


def test_each_patient_of_a_slide_listed_under_two_ids_is_kept(tmp_path):
    touch(tmp_path, "a.svs")
    found = select_slides([manifest(tmp_path, "path,slide_id,patient_id\na.svs,S1,P1\na.svs,S2,P2\n"), tmp_path])
    assert [(entry.slide_id, entry.patient_id) for entry in found] == [("S1", "P1"), ("S2", "P2")]


def test_a_path_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    touch(tmp_path, "home/x.svs")
    assert select_slides([manifest(tmp_path, "path\n~/x.svs\n")])[0].path == tmp_path / "home" / "x.svs"


def test_a_path_written_on_windows(tmp_path):
    touch(tmp_path, "slides/x.svs")
    assert select_slides([manifest(tmp_path, "path\nslides\\x.svs\n")])[0].path == tmp_path / "slides" / "x.svs"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"])
def test_manifests_in_every_unicode_encoding(tmp_path, encoding):
    touch(tmp_path, "Größe.svs")
    assert select_slides([manifest(tmp_path, "path;mpp\nGröße.svs;0,25\n", encoding)])[0].mpp == 0.25


def test_an_excel_workbook_is_named_as_one(tmp_path):
    path = tmp_path / "slides.csv"
    path.write_bytes(b"PK\3\4....")
    with pytest.raises(InputTableError, match="Excel workbook"):
        select_slides([path])


def test_slides_of_formats_that_are_not_read_get_one_line(tmp_path, caplog):
    touch(tmp_path, "one.svs", "a/x.vsi", "a/y.VSI", "z.isyntax", ".hidden.vsi")
    assert len(select_slides([tmp_path])) == 1
    assert len(caplog.records) == 1
    assert "3 slides are in unsupported formats: 2 .vsi (Olympus), 1 .isyntax" in caplog.text
    (tmp_path / "one.svs").unlink()
    with pytest.raises(UsageError, match=r"no slides found; 3 slides .*2 \.vsi"):
        select_slides([tmp_path])


def test_an_ome_zarr_image_is_named_without_its_ending(tmp_path):
    for name in ("a.ome.zarr", "b.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".zgroup").write_text('{"zarr_format": 2}')
        (tmp_path / name / ".zattrs").write_text('{"multiscales": [{"datasets": []}]}')
    assert [entry.slide_id for entry in select_slides([tmp_path])] == ["a", "b"]
    assert [entry.slide_id for entry in select_slides([tmp_path / "a.ome.zarr"])] == ["a"]


@pytest.mark.parametrize("name", ["[" * 5000, "b" * 300 + ".svs", "~/" + "a" * 5000, "a\\" + "b" * 4000 + ".svs"])
def test_a_name_longer_than_any_file_system_allows_is_a_row(tmp_path, name):
    (tmp_path / "list.csv").write_text(f"path\n{name}\n")
    (entry,) = select_slides([tmp_path / "list.csv"])
    assert 0 < len(entry.slide_id.encode()) <= 200
    with pytest.raises(SlideNotFoundError):
        open_reader(entry.path)
