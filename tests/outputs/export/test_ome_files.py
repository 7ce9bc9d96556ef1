"""OME-Zarr and OME-TIFF: metadata by foreign validators, values, pyramids, refusals."""

import numpy as np
import pytest
import tifffile
import zarr

from pathology.errors import OutputError, UsageError
from pathology.outputs.export.ome_tiff import on_slide, write_ome_tiff
from pathology.outputs.export.ome_zarr import write_ome_zarr
from pathology.outputs.export.pyramid import halved_labels, halved_means, pyramid_sizes
from pathology.outputs.figures.heatmap import Heatmap

COLOURS = ("#0072b2", "#e69f00")


@pytest.fixture
def heatmap():
    rng = np.random.default_rng(0)
    values = rng.random((1, 300, 150)).astype(np.float32)
    values = np.concatenate([values, 1 - values])
    values[:, :20, :30] = np.nan
    return Heatmap(("a", "b"), values, (2 * 100.5, 3 * 100.5), 100.5, 100.5, np.ones((300, 150), np.float32))


def test_ome_zarr_metadata_is_valid(heatmap, tmp_path):
    models = pytest.importorskip("ome_zarr_models.v05")
    write_ome_zarr(tmp_path / "a.ome.zarr", heatmap, mpp=0.25, name="slide", colours=COLOURS)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    image = models.Image.from_zarr(group)
    assert len(image.attributes.ome.multiscales[0].datasets) == 4
    labels = models.Labels.from_zarr(group["labels"])
    assert labels.attributes.ome.labels == ["predicted_class"]
    label = models.ImageLabel.from_zarr(group["labels/predicted_class"])
    assert [p.label_value for p in label.attributes.ome.image_label.properties] == [1, 2]


def test_ome_zarr_opens_with_ome_zarr(heatmap, tmp_path):
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    write_ome_zarr(tmp_path / "a.ome.zarr", heatmap, mpp=0.25, name="slide", colours=COLOURS)
    nodes = list(Reader(parse_url(tmp_path / "a.ome.zarr"))())
    image = nodes[0]
    assert [tuple(level.shape) for level in image.data] == [(2, 300, 150), (2, 150, 75), (2, 75, 38), (2, 38, 19)]
    np.testing.assert_array_equal(np.asarray(image.data[0]), heatmap.values)
    assert image.metadata["channel_names"] == ["a", "b"]
    label = next(node for node in nodes if node.zarr.path.endswith("predicted_class"))
    np.testing.assert_array_equal(np.asarray(label.data[0]), heatmap.predicted() + 1)


def test_ome_zarr_replaces_an_older_one_whole(heatmap, tmp_path):
    path = tmp_path / "a.ome.zarr"
    (path / "rubbish").mkdir(parents=True)
    write_ome_zarr(path, heatmap, mpp=0.25, name="slide", colours=COLOURS)
    assert not (path / "rubbish").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_ome_zarr_refuses_what_cannot_be_written(heatmap, tmp_path):
    with pytest.raises(UsageError, match="colours"):
        write_ome_zarr(tmp_path / "a", heatmap, mpp=1, name="a", colours=("#000000",))
    empty = Heatmap(("a",), np.empty((1, 0, 0), np.float32), (0, 0), 1, 1, np.empty((0, 0), np.float32))
    with pytest.raises(UsageError, match="no cells"):
        write_ome_zarr(tmp_path / "a", empty, mpp=1, name="a", colours=("#000000",))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_ome_zarr(tmp_path / "file" / "a", heatmap, mpp=1, name="a", colours=COLOURS)


def test_ome_tiff_is_a_pyramid_with_physical_sizes(heatmap, tmp_path):
    path = tmp_path / "a.ome.tif"
    write_ome_tiff(path, heatmap, (20_000, 40_000), mpp=0.25, name="slide µ", colours=COLOURS)
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        assert tif.is_ome
        assert series.axes == "CYX"
        assert [level.shape for level in series.levels] == [(2, 399, 200), (2, 200, 100)]
        np.testing.assert_array_equal(series.levels[0].asarray(), on_slide(heatmap, (20_000, 40_000)))
        np.testing.assert_array_equal(series.levels[1].asarray(), halved_means(series.levels[0].asarray()))
        ome = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]
    assert ome["Name"] == "slide µ"
    pixels = ome["Pixels"]
    assert pixels["PhysicalSizeX"] == pixels["PhysicalSizeY"] == pytest.approx(100.5 * 0.25)
    assert pixels["PhysicalSizeXUnit"] == "µm"
    assert [channel["Name"] for channel in pixels["Channel"]] == ["a", "b"]
    assert [channel["Color"] & 0xFFFFFFFF for channel in pixels["Channel"]] == [0x0072B2FF, 0xE69F00FF]


def test_ome_tiff_is_read_by_other_readers(heatmap, tmp_path):
    pyvips = pytest.importorskip("pyvips")
    path = tmp_path / "a.ome.tif"
    write_ome_tiff(path, heatmap, (20_000, 40_000), mpp=0.25, name="slide", colours=COLOURS)
    second = pyvips.Image.new_from_file(str(path), page=1).numpy()
    np.testing.assert_array_equal(second, on_slide(heatmap, (20_000, 40_000))[1])


def test_the_map_of_a_whole_slide_holds_every_cell(heatmap):
    whole = on_slide(heatmap, (20_000, 40_000))
    np.testing.assert_array_equal(whole[:, 3:303, 2:152], heatmap.values)
    assert np.isnan(whole).sum() == whole.size - heatmap.known().sum() * 2
    # A slide narrower than its patches (the last one hangs over) still keeps every cell.
    assert on_slide(heatmap, (100, 100)).shape == (2, 303, 152)


def test_halves():
    values = np.array([[1, 3, 5], [np.nan, 5, np.nan], [7, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(halved_means(values), np.array([[3, 5], [7, np.nan]], np.float32))
    labels = np.array([[0, 1, 2], [0, 0, 2], [3, 3, 1], [2, 2, 0]], np.uint16)
    np.testing.assert_array_equal(halved_labels(labels), [[1, 2], [2, 1]])
    assert list(pyramid_sizes((300, 100), 100)) == [(300, 100), (150, 50), (75, 25)]
