"""Scoring slides that lie in an object store."""

import shutil
import socket
import subprocess
import time

import numpy as np
import pytest
import zarr

from pathology.scoring.batch import score
from pathology.scoring.select import select_slides
from pathology.settings import ScoreSettings
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture

SETTINGS = ScoreSettings(stride=64, block=512)


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bucket").mkdir()
    return write_svs(tmp_path / "bucket" / "slide.svs", TissuePicture(1000, 900, tissue=0.8), factors=(1,))


@pytest.fixture
def bucket(slide, monkeypatch):
    """A slide in an S3 bucket that a server on this machine keeps."""
    s3fs = pytest.importorskip("s3fs")
    server = shutil.which("moto_server")
    if server is None:
        pytest.skip("needs moto_server (pip install 'moto[server]')")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": address,
    }.items():
        monkeypatch.setenv(name, value)
    process = subprocess.Popen(
        [server, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        store = s3fs.S3FileSystem(endpoint_url=address)
        store.mkdir("sarcomas")
        store.put(str(slide), "sarcomas/cohort/slide.svs")
        import fsspec

        fsspec.config.conf["s3"] = {"endpoint_url": address}
        yield "s3://sarcomas/cohort"
    finally:
        import fsspec

        fsspec.config.conf.pop("s3", None)
        process.terminate()
        process.wait(30)


def predictions(out):
    return np.asarray(zarr.open_group(out / "slides" / "slide" / "predictions.zarr", mode="r")["probabilities"][...])


def test_a_bucket_is_scored_and_resumed(bucket, slide, model, tmp_path):
    assert not score([slide], model, tmp_path / "local", settings=SETTINGS, engine="torch").failed
    batch = score(bucket, model, tmp_path / "remote", settings=SETTINGS, engine="torch")
    assert not batch.failed
    (result,) = batch
    assert result.path == "s3://sarcomas/cohort/slide.svs"
    np.testing.assert_array_equal(predictions(tmp_path / "remote"), predictions(tmp_path / "local"))
    again = score(bucket, model, tmp_path / "remote", settings=SETTINGS, engine="torch")
    assert again.unchanged == 1


def test_a_manifest_may_hold_addresses(slide, model, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"path,patient_id\nfile://{slide},P1\n")
    (entry,) = select_slides([manifest])
    assert (entry.slide_id, entry.patient_id, entry.url) == ("slide", "P1", f"file://{slide}")
    (result,) = score([manifest], model, tmp_path / "out", settings=SETTINGS, engine="torch")
    assert result.status == "scored", result.error
    assert result.path == f"file://{slide}"


def test_a_slide_that_is_gone_is_a_failed_row(slide, model, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"path\nfile://{slide}\nfile://{tmp_path}/bucket/gone.svs\n")
    batch = score([manifest], model, tmp_path / "out", settings=SETTINGS, engine="torch")
    assert [result.status for result in batch] == ["scored", "failed"]
    assert "file not found" in batch.failed[0].error
    assert (tmp_path / "out" / "results.csv").exists()
