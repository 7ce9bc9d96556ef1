"""Files as TRIDENT, CLAM, STAMP and AtlasPatch lay them out, and everything that can be wrong with them."""

import numpy as np
import pytest
import torch

from pathology.errors import StoreError, UnsafeWeightsError, UsageError
from pathology.features import find_features, open_features
from pathology.features.hdf5_files import write_stamp, write_trident
from pathology.features.store import open_store, write_store

h5py = pytest.importorskip("h5py")

N, D = 700, 24
COORDS = np.stack([np.arange(N) % 35, np.arange(N) // 35], axis=1).astype(np.int64) * 512
VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float16)


def trident(path, *, features=VECTORS, coords=COORDS, encoder="uni_v2", magnification=20, leave_out=(), **more):
    about = {
        "patch_size": 256,
        "patch_size_level0": 512,
        "level0_magnification": 40,
        "target_magnification": magnification,
        "overlap": 0,
        "name": path.stem,
        "level0_width": 20000,
        "level0_height": 12000,
        **more,
    }
    with h5py.File(path, "w") as file:
        data = file.create_dataset("features", data=features)
        data.attrs.update({"encoder": encoder, "name": path.stem})
        if coords is not None:
            file.create_dataset("coords", data=coords).attrs.update(
                {name: value for name, value in about.items() if name not in leave_out}
            )
    return path


def stamp(path, *, unit="um", leave_out=(), feats=VECTORS, kind="tile"):
    about = {"extractor": "uni2", "unit": unit, "tile_size_um": 128.0, "tile_size_px": 256, "feat_type": kind}
    with h5py.File(path, "w") as file:
        file.create_dataset("feats", data=feats)
        file.create_dataset("coords", data=COORDS * 0.25)
        file.attrs.update({name: value for name, value in about.items() if name not in leave_out})
    return path


def clam(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=VECTORS.astype(np.float32))
        file.create_dataset("coords", data=COORDS)
    return path


def atlaspatch(path, encoders=("uni_v2",)):
    with h5py.File(path, "w") as file:
        rows = np.concatenate([COORDS, np.full((N, 2), 256), np.ones((N, 1))], axis=1).astype(np.int64)
        file.create_dataset("coords", data=rows)
        for index, name in enumerate(encoders):
            file.create_dataset(f"features/{name}", data=VECTORS + index)
        file.attrs["patch_size_level0"] = 512
    return path


@pytest.mark.parametrize(
    ("make", "made_by", "encoder", "mpp"),
    [
        (trident, "trident", "uni_v2", 0.5),
        (clam, "clam", "", None),
        (stamp, "stamp", "uni2", 0.5),
        (atlaspatch, "atlaspatch", "uni_v2", None),
    ],
)
def test_recognised_by_content(make, made_by, encoder, mpp, tmp_path):
    found = open_features(make(tmp_path / "case-1.h5"), slide_mpp=0.25)
    assert (found.made_by, found.encoder, found.mpp, found.slide_id) == (made_by, encoder, mpp, "case-1")
    assert (len(found), found.vector) == (N, D)
    np.testing.assert_array_equal(found.coords, COORDS)
    assert found.patch_level0 == (None if make is clam else 512)
    np.testing.assert_array_equal(found.read(), VECTORS.astype(np.float32))
    assert [len(part) for part in found.chunks(300)] == [300, 300, 100]


def test_older_layout_and_clam_tensor(tmp_path):
    found = open_features(trident(tmp_path / "a.h5", features=VECTORS[None]))
    np.testing.assert_array_equal(found.read(), VECTORS.astype(np.float32))
    torch.save(torch.from_numpy(VECTORS), tmp_path / "b.pt")
    tensor = open_features(tmp_path / "b.pt")
    assert tensor.coords is None
    np.testing.assert_array_equal(tensor.read(), VECTORS.astype(np.float32))
    torch.save({"features": object}, tmp_path / "b.pt")
    with pytest.raises(UnsafeWeightsError, match="more than tensors"):
        open_features(tmp_path / "b.pt")


def test_micrometres_stay_unplaced_without_the_slides_scale(tmp_path):
    found = open_features(stamp(tmp_path / "a.h5"))
    assert found.coords is None
    assert found.patch_level0 is None
    assert found.mpp == 0.5


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (stamp, {"unit": "px"}, "this file states px"),
        (stamp, {"leave_out": ("unit",)}, "this file states no unit"),
        (stamp, {"leave_out": ("tile_size_px",)}, "no tile_size_px"),
        (stamp, {"kind": "slide"}, "features of a whole slide"),
        (trident, {"leave_out": ("patch_size_level0",)}, "no attribute patch_size_level0"),
        (trident, {"features": np.empty((0,), np.float32), "coords": np.empty((0, 2))}, "the slide has no patches"),
        (trident, {"coords": COORDS[:-1]}, r"coords: expected \(700, 2\)"),
        (trident, {"coords": COORDS + 0.5}, "whole level-0 pixels"),
        (trident, {"coords": None}, "the file has no coords"),
        (trident, {"features": VECTORS[:, :, None]}, r"expected \(N, D\)"),
    ],
)
def test_one_clear_error_each(make, options, message, tmp_path):
    with pytest.raises(StoreError, match=message):
        open_features(make(tmp_path / "a.h5", **options))


def test_numbers_that_are_none_name_their_patch(tmp_path):
    broken = VECTORS.copy()
    broken[612, 3] = np.nan
    with pytest.raises(StoreError, match="patch 612 are not finite"):
        open_features(trident(tmp_path / "a.h5", features=broken)).read()


def test_other_files(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"text")
    with pytest.raises(StoreError, match="damaged or no HDF5"):
        open_features(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["coords"] = COORDS
    with pytest.raises(StoreError, match="the file holds coords"):
        open_features(tmp_path / "b.h5")
    with pytest.raises(StoreError, match="no feature file"):
        open_features(tmp_path / "c.csv")


def test_a_folder_is_of_one_encoder_and_scale(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    with pytest.raises(UsageError, match="no feature files here"):
        find_features(folder)
    trident(folder / "b.h5")
    atlaspatch(folder / "a.h5", encoders=("UNI2-h", "virchow2"))
    torch.save(torch.from_numpy(VECTORS), folder / "b.pt")  # CLAM's, beside a file with coordinates
    # Different names of one encoder.
    found = find_features(folder, encoder="uni2-h")
    assert [features.slide_id for features in found] == ["a", "b"]
    np.testing.assert_array_equal(found[0].read(), VECTORS.astype(np.float32))
    with pytest.raises(UsageError, match="differ in encoder"):
        find_features(folder, encoder="virchow2")
    (folder / "a.h5").unlink()
    trident(folder / "c.h5", encoder="gigapath")
    with pytest.raises(UsageError, match=r"differ in encoder: uni2-h in b\.h5, prov-gigapath in c\.h5"):
        find_features(folder)
    trident(folder / "c.h5", magnification=10)
    with pytest.raises(UsageError, match=r"differ in scale in µm per pixel: 0\.5 in b\.h5, 1\.0 in c\.h5"):
        find_features(folder)
    trident(folder / "c.h5", features=VECTORS[:, :20])
    with pytest.raises(UsageError, match="differ in length of the vectors: 24"):
        find_features(folder)
    (folder / "c.h5").unlink()
    with pytest.raises(UsageError, match="features are of uni_v2, not of virchow"):
        find_features(folder, encoder="virchow")


ATTRIBUTES = {
    "slide_id": "case-1",
    "encoder": {"encoder": "uni2-h", "weights_sha256": "0" * 64},
    "patch": 256,
    "stride": 256,
    "mpp": 0.5,
    "slide_mpp": 0.25,
    "patch_level0": 512.0,
    "dimensions": [20000, 12000],
    "fingerprint": "f",
}


@pytest.mark.parametrize("write", [write_trident, write_stamp, write_store])
def test_written_and_read_again(write, tmp_path):
    path = tmp_path / ("case-1.zarr" if write is write_store else "case-1.h5")
    write(path, COORDS, [VECTORS[:300], VECTORS[300:]], D, ATTRIBUTES)
    found = open_features(path, slide_mpp=0.25)
    assert (found.slide_id, found.encoder, found.mpp, found.patch_level0) == ("case-1", "uni2-h", 0.5, 512)
    np.testing.assert_array_equal(found.coords, COORDS)
    np.testing.assert_array_equal(found.read(), VECTORS.astype(np.float32))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_store_of_many_shards_and_none(tmp_path):
    many = np.tile(VECTORS, (50, 1))
    write_store(tmp_path / "a.zarr", np.tile(COORDS, (50, 1)), np.array_split(many, 7), D, ATTRIBUTES)
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr").read(), many.astype(np.float32))
    with pytest.raises(StoreError, match="no complete feature store"):
        open_features(tmp_path / "b.zarr")
    with pytest.raises(ValueError, match="700 vectors for 699 patches"):
        write_store(tmp_path / "c.zarr", COORDS[:-1], [VECTORS], D, ATTRIBUTES)
    assert not (tmp_path / "c.zarr").exists()
