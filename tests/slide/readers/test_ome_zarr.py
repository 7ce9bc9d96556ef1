"""OME-Zarr images as slides: every layout that its writers make, exactly, and what is not a slide refused."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import zarr
import zarr.codecs
from numcodecs import Blosc, Zlib

from pathology.errors import CorruptSlideError, NotBrightfieldError, SlideError, UnsupportedSlideError
from pathology.slide.open import find_slides, open_reader
from pathology.slide.readers.codecs import TileDecodeError
from pathology.slide.readers.ome_zarr import OmeZarrReader
from pathology.slide.readers.zarr_chunks import ArrayChunks, FolderFiles
from pathology.testing.slide_reader_suite import SlideReaderSuite
from pathology.testing.synthetic_slides import TissuePicture

WIDTH, HEIGHT = 601, 437
PIXELS = TissuePicture(WIDTH, HEIGHT, mpp=0.5, tissue=0.8).window(0, 0, WIDTH, HEIGHT)
RGB = [
    {"label": name, "color": colour} for name, colour in (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
]

SHARD_END = zarr.codecs.ShardingCodec(
    chunk_shape=(3, 64, 64), codecs=[zarr.codecs.BytesCodec(), zarr.codecs.ZstdCodec()]
)
SHARD_START = zarr.codecs.ShardingCodec(
    chunk_shape=(3, 64, 64),
    codecs=[zarr.codecs.BytesCodec(), zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()],
    index_location="start",
)
LAYOUTS = {
    "v2-tczyx-blosc": {"axes": "tczyx", "chunks": (1, 3, 1, 128, 128), "compressors": Blosc(), "separator": "/"},
    "v2-cyx-channels": {"axes": "cyx", "chunks": (1, 100, 128), "compressors": Zlib(), "separator": "."},
    "v2-yxc-raw": {"axes": "yxc", "chunks": (128, 200, 3), "compressors": None, "separator": "/", "order": "F"},
    "v3-yxc-zstd": {"axes": "yxc", "chunks": (128, 128, 3), "compressors": zarr.codecs.ZstdCodec()},
    "v3-czyx-blosc": {"axes": "czyx", "chunks": (3, 1, 90, 128), "compressors": zarr.codecs.BloscCodec()},
    "v3-sharded": {"axes": "cyx", "chunks": (3, 128, 128), "serializer": SHARD_END, "compressors": None},
    "v3-sharded-start": {"axes": "cyx", "chunks": (3, 192, 128), "serializer": SHARD_START, "compressors": None},
    "v3-transposed": {"axes": "cyx", "chunks": (3, 128, 128), "filters": zarr.codecs.TransposeCodec(order=(2, 1, 0))},
}


def downsampled(pixels):
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    return pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)


def pyramid(pixels):
    return [pixels, downsampled(pixels), downsampled(downsampled(pixels))]


def as_axes(pixels, axes):
    order = {"y": 0, "x": 1, "c": 2}
    found = pixels.transpose([order[axis] for axis in axes if axis in order])
    for position, axis in enumerate(axes):
        if axis not in order:
            found = np.expand_dims(found, position)
    return found


def attributes(axes, levels, *, mpp=0.5, unit="micrometer", channels=RGB, version="0.4"):
    kinds = {"t": "time", "c": "channel"}
    multiscales = {
        "version": version,
        "axes": [
            {"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if a in "zyx" and unit else {})} for a in axes
        ],
        "datasets": [
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [mpp * 2**number if a in "yx" else 1.0 for a in axes]}
                ],
            }
            for number in range(levels)
        ],
    }
    return {"multiscales": [multiscales], **({"omero": {"channels": channels}} if channels is not None else {})}


def write(path, layout, pixels=PIXELS, **about):
    """Write a pyramid of three levels in one of the layouts."""
    options = dict(LAYOUTS[layout])
    axes, version = options.pop("axes"), int(layout[1])
    if version == 2:
        options["chunk_key_encoding"] = {"name": "v2", "separator": options.pop("separator")}
    root = zarr.open_group(path, mode="w", zarr_format=version)
    found = attributes(axes, 3, version="0.4" if version == 2 else "0.5", **about)
    root.attrs.update(found if version == 2 else {"ome": found})
    for number, level in enumerate(pyramid(pixels)):
        data = as_axes(level, axes)
        array = root.create_array(str(number), shape=data.shape, dtype="uint8", **options)
        array[:] = data
    return path


class TestLayouts(SlideReaderSuite):
    @classmethod
    def open(cls, path):
        return OmeZarrReader(path)

    @pytest.fixture(scope="class", params=LAYOUTS)
    @classmethod
    def layout(cls, request):
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, layout, tmp_path_factory):
        return write(tmp_path_factory.mktemp("z") / "a.ome.zarr", layout)

    @pytest.fixture(scope="class")
    @classmethod
    def altered(cls, layout, tmp_path_factory):
        pixels = PIXELS.copy()
        pixels[100:120, 100:120] ^= 64
        return write(tmp_path_factory.mktemp("y") / "a.ome.zarr", layout, pixels)

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, slide):
        return pyramid(PIXELS)

    def test_scale_and_origin(self, reader, layout):
        assert reader.mpp == 0.5
        assert reader.warnings == ()
        assert [round(level.downsample, 1) for level in reader.levels] == [1.0, 2.0, 4.0]
        assert reader.properties["format"] == f"OME-Zarr {'0.4' if layout.startswith('v2') else '0.5'}"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("layout", ["v2-tczyx-blosc", "v3-sharded"])
@pytest.mark.parametrize("inside", ["", "a.ome.zarr/"])
def test_a_zip_archive_is_the_folder(tmp_path, layout, compression, inside):
    folder = write(tmp_path / "a.ome.zarr", layout)
    archive = tmp_path / "b.ome.zarr.zip"
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, inside + str(path.relative_to(folder)))
    with open_reader(folder) as one, open_reader(archive) as other:
        assert one.backend == other.backend == "ome-zarr"
        assert one.fingerprint == other.fingerprint
        assert np.array_equal(other.read(0, 0, 0, WIDTH, HEIGHT), PIXELS)
    assert find_slides([tmp_path]) == [folder, archive]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_the_reference_writer_makes(tmp_path, version):
    import ome_zarr.format
    import ome_zarr.writer

    fmt = ome_zarr.format.format_from_version(version)
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=fmt.zarr_format)
    ome_zarr.writer.write_image(
        PIXELS.transpose(2, 0, 1),
        root,
        scale_factors=[2],
        axes=[{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")],
        fmt=fmt,
        scale={"c": 1.0, "y": 0.25, "x": 0.25},
        axes_units={"y": "micrometer", "x": "micrometer"},
    )
    with open_reader(tmp_path / "a.zarr") as reader:
        assert reader.mpp == 0.25
        assert len(reader.levels) == 2
        assert np.array_equal(reader.read(0, 0, 0, WIDTH, HEIGHT), PIXELS)


def test_the_largest_image_of_a_conversion_is_the_slide(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write(tmp_path / "a.zarr" / "0", "v2-cyx-channels", PIXELS[:100, :90])
    write(tmp_path / "a.zarr" / "1", "v2-cyx-channels")
    with open_reader(tmp_path / "a.zarr") as reader:
        assert reader.dimensions == (WIDTH, HEIGHT)
        assert reader.warnings == ()
    write(tmp_path / "a.zarr" / "2", "v2-cyx-channels", PIXELS[:400])
    with open_reader(tmp_path / "a.zarr") as reader:
        assert "2 images of similar size" in reader.warnings[0]
        assert np.array_equal(reader.read(0, 0, 0, WIDTH, HEIGHT), PIXELS)


def test_the_middle_focal_plane_is_read_and_said(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    root.attrs["ome"] = attributes("czyx", 1)
    stack = np.stack([PIXELS.transpose(2, 0, 1) // n for n in (3, 1, 2)], axis=1)
    root.create_array("0", shape=stack.shape, chunks=(3, 2, 128, 128), dtype="uint8")[:] = stack
    with open_reader(tmp_path / "a.zarr") as reader:
        assert reader.warnings == ("the middle of 3 focal planes, number 2, is read",)
        assert np.array_equal(reader.read(0, 0, 0, WIDTH, HEIGHT), PIXELS)


@pytest.mark.parametrize(
    ("unit", "mpp", "expected"),
    [("nanometer", 250.0, 0.25), ("millimeter", 0.0005, 0.5), (None, 1.0, None), ("pixel", 1.0, None)],
)
def test_units_are_micrometres_or_unknown(tmp_path, unit, mpp, expected):
    with open_reader(write(tmp_path / "a.zarr", "v2-cyx-channels", unit=unit, mpp=mpp)) as reader:
        assert reader.mpp == (None if expected is None else pytest.approx(expected))


def test_channels_in_another_order(tmp_path):
    write(tmp_path / "a.zarr", "v2-cyx-channels", PIXELS[..., ::-1], channels=RGB[::-1])
    with open_reader(tmp_path / "a.zarr") as reader:
        assert np.array_equal(reader.read(0, 0, 0, WIDTH, HEIGHT), PIXELS)


STAINS = [{"label": name, "color": c} for name, c in (("DAPI", "0000FF"), ("FITC", "00FF00"), ("TRITC", "FF0000"))]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"channels": STAINS}, NotBrightfieldError, "dapi, fitc, tritc"),
        ({"channels": None, "pixels": PIXELS // 12}, NotBrightfieldError, "background is dark"),
    ],
)
def test_fluorescence_is_refused(tmp_path, change, error, words):
    pixels = change.pop("pixels", PIXELS)
    write(tmp_path / "a.zarr", "v3-yxc-zstd", pixels, **change)
    with pytest.raises(error, match=words):
        open_reader(tmp_path / "a.zarr")


def other_hierarchy(path, kind):
    if kind == "array":
        zarr.create_array(path, shape=(10, 10), dtype="uint8")
        return
    root = zarr.open_group(path, mode="w", zarr_format=2)
    if kind == "plate":
        root.attrs["plate"] = {"wells": []}
    if kind in ("label", "uint16", "grey", "time", "flat", "axes"):
        root.attrs.update(attributes({"grey": "yx", "time": "tcyx"}.get(kind, "cyx"), 1))
        shape = {"grey": (40, 50), "time": (2, 3, 40, 50), "flat": (3, 20000, 20000), "axes": (40, 50)}
        root.create_array(
            "0",
            shape=shape.get(kind, (3, 40, 50)),
            chunks=shape.get(kind, (3, 40, 50)),
            dtype="uint16" if kind == "uint16" else "uint8",
        )
    if kind == "label":
        root.attrs["image-label"] = {}
    if kind == "missing":
        root.attrs.update(attributes("cyx", 1))
    if kind == "outside":
        about = attributes("cyx", 1)
        about["multiscales"][0]["datasets"][0]["path"] = "../b"
        root.attrs.update(about)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("array", SlideError, "OME-Zarr"),
        ("empty", UnsupportedSlideError, "no OME-Zarr image"),
        ("plate", UnsupportedSlideError, "plate"),
        ("label", NotBrightfieldError, "label image"),
        ("uint16", NotBrightfieldError, "uint16"),
        ("grey", NotBrightfieldError, "1 channel"),
        ("time", UnsupportedSlideError, "2 steps along its axis 't'"),
        ("flat", UnsupportedSlideError, "chunk"),
        ("axes", CorruptSlideError, "3 axes for an array of 2"),
        ("missing", CorruptSlideError, "'0' is missing"),
        ("outside", CorruptSlideError, "outside the slide"),
    ],
)
def test_what_is_not_a_slide_is_refused(tmp_path, kind, error, words):
    other_hierarchy(tmp_path / "a.zarr", kind)
    with pytest.raises(error, match=words):
        open_reader(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b'{"multiscales": [{}]}', b'{"multiscales": 3}', b"\xff\xfe"]
)
def test_damaged_metadata_are_an_error_of_ours(tmp_path, text):
    write(tmp_path / "a.zarr", "v2-cyx-channels")
    (tmp_path / "a.zarr" / ".zattrs").write_bytes(text)
    find_slides([tmp_path])
    with pytest.raises(SlideError):
        open_reader(tmp_path / "a.zarr")


def test_a_pipe_for_metadata_does_not_hang(tmp_path):
    write(tmp_path / "a.zarr", "v2-cyx-channels")
    (tmp_path / "a.zarr" / "0" / ".zarray").unlink()
    os.mkfifo(tmp_path / "a.zarr" / "0" / ".zarray")
    with pytest.raises(CorruptSlideError, match="metadata"):
        open_reader(tmp_path / "a.zarr")


@pytest.mark.parametrize("layout", ["v2-tczyx-blosc", "v3-yxc-zstd", "v3-sharded", "v2-cyx-channels"])
def test_damaged_chunks_are_counted_and_missing_ones_said(tmp_path, layout):
    folder = write(tmp_path / "a.zarr", layout)
    chunks = sorted(p for p in (folder / "0").rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr")))
    chunks[0].write_bytes(chunks[0].read_bytes()[:-20] if layout == "v3-sharded" else b"\x07" * 50)
    if layout == "v3-sharded":
        with pytest.raises(CorruptSlideError):
            open_reader(folder)
        chunks[0].unlink()
    else:
        with open_reader(folder) as reader:
            region = reader.read_masked(0, 0, 0, WIDTH, HEIGHT)
            assert region.unreadable
            assert reader.tile_counts.unreadable == 1
        chunks[-1].unlink()
    with open_reader(folder) as reader:
        assert "of level 0 are not stored" in reader.warnings[0]


def test_a_bomb_is_not_unpacked(tmp_path):
    folder = write(tmp_path / "a.zarr", "v2-cyx-channels")
    (folder / "0" / "0.0.0").write_bytes(Zlib(9).encode(bytes(300_000_000)))
    array = zarr.open_array(folder / "0", mode="r")
    chunks = ArrayChunks(array, "0", FolderFiles(folder))
    with pytest.raises(TileDecodeError, match="larger than it may be"):
        chunks.pixels(chunks.chunk_bytes((0, 0, 0)), (0, 0, 0))


def test_results_and_stores_of_ours_are_no_slides(tmp_path):
    write(tmp_path / "one.zarr", "v2-cyx-channels")
    zarr.open_group(tmp_path / "store.zarr", mode="w")
    heatmap = zarr.open_group(tmp_path / "heatmap.zarr", mode="w", zarr_format=2)
    about = attributes("yx", 1)
    about["multiscales"][0]["metadata"] = {"made_by": "pathology 1.0"}
    heatmap.attrs.update(about)
    assert [path.name for path in find_slides([tmp_path])] == ["one.zarr"]


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path):
    folder = write(tmp_path / "a.zarr", "v3-sharded")
    shutil.copytree(folder, tmp_path / "b.zarr")
    about = json.loads((tmp_path / "b.zarr" / "zarr.json").read_text())
    about["attributes"]["ome"]["multiscales"][0]["name"] = "another name"
    (tmp_path / "b.zarr" / "zarr.json").write_text(json.dumps(about))
    with open_reader(folder) as one, open_reader(tmp_path / "b.zarr") as other:
        assert one.fingerprint == other.fingerprint
