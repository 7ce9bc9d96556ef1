"""A known square on a constructed slide comes back at the same level-0 coordinates from every export."""

import numpy as np
import pytest
import tifffile
import zarr

from pathology.outputs.export.exports import export_slide
from pathology.outputs.export.geojson import read_geojson
from pathology.outputs.export.ome_zarr import write_ome_zarr
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.results.results_folder import open_results
from pathology.slide.open import open_reader
from pathology.testing.constructed_results import SQUARE_CELLS, write_constructed_results


@pytest.fixture(scope="module", params=[0.499, 0.5], ids=["strides not whole", "strides whole"])
def slide(request, tmp_path_factory):
    out = write_constructed_results(
        tmp_path_factory.mktemp("registration") / "out", mpp=request.param, compression="none"
    )
    return open_results(out)["square"]


def truth(slide):
    """Left, top, right and bottom of the square in level-0 pixels, not rounded."""
    stride = 64 * 1.0 / slide.record.mpp
    return np.array(SQUARE_CELLS) * stride


def extent(where):
    """Left, top, right and bottom of the true cells of a mask, in cells."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    assert where[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_the_slide_itself(slide):
    with open_reader(slide.record.path) as reader:
        pixels = reader.read(0, 0, 0, *reader.dimensions)
    assert extent((pixels == (92, 58, 122)).all(axis=2)) == pytest.approx(truth(slide), abs=0.5)


def test_array(slide):
    heatmap = slide.heatmaps
    left, top, right, bottom = extent(slide.heatmap("tumour") > 0.5)
    assert heatmap.bounds(top, left)[:2] == pytest.approx(truth(slide)[:2], abs=1e-6)
    assert heatmap.bounds(bottom - 1, right - 1)[2:] == pytest.approx(truth(slide)[2:], abs=1e-6)


def test_geojson(slide, tmp_path):
    features = list(read_geojson(export_slide(slide, "geojson", tmp_path)))
    (square,) = [feature for feature in features if feature.classification == "tumour"]
    ((ring,),) = square.polygons
    assert [*ring.min(axis=0), *ring.max(axis=0)] == pytest.approx(truth(slide), abs=1e-3)
    (stroma,) = [feature for feature in features if feature.classification == "stroma"]
    holes = [ring for polygon in stroma.polygons for ring in polygon[1:]]
    assert any([*h.min(axis=0), *h.max(axis=0)] == pytest.approx(truth(slide), abs=1e-3) for h in holes)


def test_geojson_patches(slide, tmp_path):
    tiles = list(read_geojson(export_slide(slide, "patches", tmp_path)))
    inside = np.array([t.polygons[0][0] for t in tiles if t.classification == "tumour"])
    found = [*inside.min(axis=(0, 1)), *inside.max(axis=(0, 1))]
    assert found == pytest.approx(truth(slide), abs=0.51)  # corners are whole pixels


def test_ome_zarr(slide, tmp_path):
    group = zarr.open_group(export_slide(slide, "ome-zarr", tmp_path), mode="r")
    ome = group.attrs["ome"]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == ["stroma", "tumour"]
    for name, channels in (("", True), ("labels/predicted_class/", False)):
        (multiscale,) = group[name.rstrip("/")].attrs["ome"]["multiscales"] if name else ome["multiscales"]
        for dataset in multiscale["datasets"]:
            scale, shift = (t[t["type"]][-2:] for t in dataset["coordinateTransformations"])
            values = group[f"{name}{dataset['path']}"][...]
            cells = extent(values[1] > 0.5) if channels else extent(values == 2)
            # Centres of the outermost cells in µm, half a cell outwards, then to level-0 pixels whose first has its
            # centre at 0.
            first = (cells[:2] * scale[::-1] + shift[::-1] - np.array(scale[::-1]) / 2) / slide.record.mpp + 0.5
            last = ((cells[2:] - 1) * scale[::-1] + shift[::-1] + np.array(scale[::-1]) / 2) / slide.record.mpp + 0.5
            assert [*first, *last] == pytest.approx(truth(slide), abs=1e-6)
            break  # coarser levels mix the square's border with its surroundings: tested below


def test_coarser_levels_of_ome_zarr_lie_on_the_finer_ones(tmp_path):
    """A square on even cells is exact at half the resolution too, and at a quarter."""
    values = np.zeros((1, 200, 130), np.float32)
    values[0, 8:40, 16:80] = 1
    stride, origin, mpp = 128.256, (3 * 128.256, 5 * 128.256), 0.499
    heatmap = Heatmap(("a",), values, origin, stride, stride, np.ones((200, 130), np.float32))
    write_ome_zarr(tmp_path / "a.ome.zarr", heatmap, mpp=mpp, name="a", colours=("#0072b2",))
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    (multiscale,) = group.attrs["ome"]["multiscales"]
    assert len(multiscale["datasets"]) == 3
    truth = (np.array((16, 8, 80, 40)) * stride) + np.tile(origin, 2)
    for dataset in multiscale["datasets"]:
        scale, shift = (np.array(t[t["type"]][-2:])[::-1] for t in dataset["coordinateTransformations"])
        cells = extent(group[dataset["path"]][0] > 0.5)
        first = (cells[:2] * scale + shift - scale / 2) / mpp + 0.5
        last = ((cells[2:] - 1) * scale + shift + scale / 2) / mpp + 0.5
        assert [*first, *last] == pytest.approx(truth, abs=1e-6)


def test_ome_tiff(slide, tmp_path):
    path = export_slide(slide, "ome-tiff", tmp_path)
    with tifffile.TiffFile(path) as tif:
        values = tif.asarray()
        size = float(tif.ome_metadata.split('PhysicalSizeX="')[1].split('"')[0])
    assert extent(values[1] > 0.5) * size / slide.record.mpp == pytest.approx(truth(slide), abs=1e-6)
    height, width = values.shape[1:]
    assert 0 <= width * size / slide.record.mpp - slide.dimensions[0] < size / slide.record.mpp
    assert 0 <= height * size / slide.record.mpp - slide.dimensions[1] < size / slide.record.mpp


def test_overlay(slide, tmp_path):
    """The painted picture, at its own resolution: a picture pixel is at most a few level-0 pixels."""
    from PIL import Image

    with Image.open(export_slide(slide, "overlay", tmp_path)) as file:
        picture = np.asarray(file.convert("RGB")).astype(int)
    frame = 24  # what is around the slide on the sheet
    width, height = slide.dimensions[0] // 2, slide.dimensions[1] // 2  # the constructed overview
    shown = picture[frame : frame + height, frame : frame + width]
    orange = (shown[..., 0] > shown[..., 2] + 60) & (shown[..., 0] > 120)
    assert extent(orange) * 2 == pytest.approx(truth(slide), abs=2)


def test_npz(slide, tmp_path):
    with np.load(export_slide(slide, "npz", tmp_path), allow_pickle=False) as saved:
        left, top, right, bottom = extent(saved["probabilities"][list(saved["classes"]).index("tumour")] > 0.5)
        found = np.array([left, top, right, bottom]) * saved["stride"] + np.tile(saved["origin"], 2)
    assert found == pytest.approx(truth(slide), abs=1e-6)
