"""Picking a backend, finding slides, and what a pathologist is told about files that are none."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from pathology.errors import (
    CorruptSlideError,
    NotBrightfieldError,
    SlideError,
    SlideNotFoundError,
    UnsupportedSlideError,
    UsageError,
)
from pathology.slide.open import find_slides, open_reader
from pathology.slide.scale import resolve_mpp
from pathology.testing.synthetic_slides import TissuePicture, write_dicom, write_ome_tiff, write_svs, write_tiff

PICTURE = TissuePicture(300, 260, mpp=1.0, tissue=0.8)


def svs(path):
    return write_svs(path, PICTURE, tile=64, factors=(1, 4))


def test_the_direct_backend_comes_first(tmp_path):
    Image.fromarray(PICTURE.window(0, 0, 300, 260)).save(tmp_path / "a.png")
    for path, backend in (
        (svs(tmp_path / "a.svs"), "tiff"),
        (write_ome_tiff(tmp_path / "a.ome.tif", PICTURE), "tiff"),
        (write_dicom(tmp_path / "series", PICTURE), "dicom"),
        (tmp_path / "a.png", "image"),
    ):
        with open_reader(path) as reader:
            assert reader.backend == backend
            assert reader.path == path


def test_openslide_takes_over_what_tiff_refuses(tmp_path):
    path = tmp_path / "a.tif"
    planes = np.moveaxis(PICTURE.window(0, 0, 300, 260), 2, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", tile=(64, 64))
    with open_reader(path) as reader:
        assert reader.backend == "openslide"
        np.testing.assert_array_equal(reader.read(0, 10, 10, 200, 200), PICTURE.window(10, 10, 200, 200))


def test_a_named_backend_is_the_only_one_asked(tmp_path):
    path = svs(tmp_path / "a.svs")
    with open_reader(path, backend="openslide") as slow, open_reader(str(path), backend="tiff", threads=2) as fast:
        assert (slow.backend, fast.backend) == ("openslide", "tiff")
        np.testing.assert_array_equal(slow.read(0, 5, 6, 200, 200), fast.read(0, 5, 6, 200, 200))
    with pytest.raises(UnsupportedSlideError, match="not a PNG or JPEG"):
        open_reader(path, backend="image")
    with pytest.raises(UsageError, match="choose from tiff, openslide, dicom"):
        open_reader(path, backend="bioformats")


def test_the_name_does_not_decide(tmp_path):
    path = svs(tmp_path / "a.svs").rename(tmp_path / "a.png")
    with open_reader(path) as reader:
        assert reader.backend == "tiff"


def broken(folder, kind):
    path = folder / "slide.svs"
    content = svs(path).read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("Dear colleague,\nplease find the slide attached. µm, naïve, 組織\n" * 40, encoding="utf-8")
    elif kind == "zeros":
        path.write_bytes(bytes(100_000))
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "head only":
        path.write_bytes(content[:6])
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(50_000))
    elif kind == "mask":
        tifffile.imwrite(path, np.zeros((100, 100), np.uint8), tile=(64, 64))
    elif kind == "html":
        path.write_text("<!DOCTYPE html><html><body>404 not found</body></html>")
    return path


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("empty", CorruptSlideError, "empty"),
        ("text", UnsupportedSlideError, "text file"),
        ("html", UnsupportedSlideError, "text file"),
        ("zeros", CorruptSlideError, "zeros"),
        ("truncated", CorruptSlideError, "truncated"),
        ("head only", CorruptSlideError, "damaged or truncated"),
        ("noise", UnsupportedSlideError, "not a slide format"),
        ("mask", NotBrightfieldError, "mask"),
    ],
)
def test_reasons_a_pathologist_understands(tmp_path, kind, error, words):
    path = broken(tmp_path, kind)
    with pytest.raises(error, match=words) as caught:
        open_reader(path)
    assert caught.value.where == str(path)
    assert caught.value.exit_status == 1
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(SlideNotFoundError, match="file not found"):
        open_reader(tmp_path / "none.svs")
    with pytest.raises(FileNotFoundError):
        find_slides([tmp_path / "none"])


def test_every_real_file_opens(data_dir):
    slides = find_slides([data_dir / "slides"])
    assert [path.name for path in slides] == [
        "CMU-1-Small-Region.svs",
        "camelyon-multiframe.dcm",
        "CMU-1-Small-Region-dicom",
        "CMU-1-Small-Region.jp2.tiff",
        "CMU-1-Small-Region.jpeg.tiff",
        "CMU-1-Small-Region.webp.tiff",
        "xyc-JPEG.ome.tiff",
        "xyc-LZW.ome.tiff",
    ]
    for path in slides:
        with open_reader(path) as reader:
            assert reader.read(0, 0, 0, 64, 64).shape == (64, 64, 3)
            assert resolve_mpp(reader, option=0.499).mpp == 0.499


def test_finding(tmp_path):
    """One entry a slide, in natural order, whatever lies about."""
    (tmp_path / "b").mkdir()
    for name in ("s10.svs", "s2.svs", "S1.svs", "with space and 😀.svs", "b/inner.tif"):
        if name.endswith("tif"):
            write_tiff(tmp_path / name, PICTURE, tile=(64, 64))
        else:
            svs(tmp_path / name)
    write_dicom(tmp_path / "case 7", PICTURE, tile=128)
    for name in ("notes.txt", "table.csv", ".hidden.svs", "._s2.svs", "Thumbs.db", "README", "b/annotations.geojson"):
        (tmp_path / name).write_text("x")
    (tmp_path / "broken.ndpi").write_text("broken")
    (tmp_path / "broken.dcm").write_bytes(b"broken")
    found = [str(path.relative_to(tmp_path)) for path in find_slides([tmp_path])]
    assert found == [
        "b/inner.tif",
        "broken.dcm",
        "broken.ndpi",
        "case 7",
        "S1.svs",
        "s2.svs",
        "s10.svs",
        "with space and 😀.svs",
    ]
    assert find_slides([tmp_path, tmp_path / "s2.svs", tmp_path / "S1.svs"]) == find_slides([tmp_path])


def test_a_named_file_is_always_listed(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("x")
    assert find_slides([path]) == [path]
    assert find_slides([str(path)]) == [path]
    assert find_slides([tmp_path]) == []


def test_dicom_series_are_one_entry_each(tmp_path):
    folder = write_dicom(tmp_path / "two", PICTURE, tile=128, factors=(1, 2))
    assert find_slides([tmp_path]) == [folder]
    write_dicom(folder, TissuePicture(200, 100, seed=5), tile=128)
    found = find_slides([tmp_path])
    assert len(found) == 2
    sizes = set()
    for path in found:
        assert path.parent == folder
        with open_reader(path) as reader:
            sizes.add(reader.dimensions)
    assert sizes == {(300, 260), (200, 100)}
    assert len(find_slides(sorted(folder.iterdir()))) == 2  # as a shell's folder/*.dcm


def test_dicom_without_name_endings(tmp_path):
    folder = write_dicom(tmp_path / "series", PICTURE, tile=128)
    for file in list(folder.iterdir()):
        file.rename(file.with_suffix(""))
    assert find_slides([tmp_path]) == [folder]


def test_parts_of_a_slide_are_no_slides(tmp_path):
    """MIRAX keeps its data in a folder beside it; a Hamamatsu VMS index names its pictures."""
    (tmp_path / "m.mrxs").write_bytes(b"x")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "Data0000.dat").write_bytes(b"x")
    (tmp_path / "m" / "preview.png").write_bytes(b"x")
    (tmp_path / "v.vms").write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=v-0.jpg\nImageFile(1,0)=v-1.jpg\nMapFile=v_map2.jpg\n"
        "MacroImage=v_macro.jpg\nOptimisationFile=v.opt\n"
    )
    for name in ("v-0.jpg", "v-1.jpg", "v_map2.jpg", "v_macro.jpg", "v.opt", "field.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_slides([tmp_path])] == ["field.jpg", "m.mrxs", "v.vms"]


def test_a_vendor_format_that_is_broken(tmp_path):
    for name in ("a.mrxs", "a.vms", "a.czi"):
        path = tmp_path / name
        path.write_bytes(b"\xff\xd8\xff" + bytes(1000))
        with pytest.raises(SlideError):
            open_reader(path)


def test_a_copied_folder_reads_alike(tmp_path):
    folder = write_dicom(tmp_path / "a", PICTURE, tile=128)
    copy = shutil.copytree(folder, tmp_path / "b")
    with open_reader(folder) as first, open_reader(copy) as second:
        assert first.fingerprint == second.fingerprint


def test_opening_imports_only_what_is_needed():
    """``pathology.slide.open`` alone loads neither torch nor a format library it may not need."""
    program = (
        "import pathology.slide.open, sys; print([m for m in ('torch', 'tifffile', 'openslide') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
