"""A whole ``pathology score`` from outside: what listens while it runs, and what is left when it is stopped."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pathology.testing.random_bundle import SMALL_NETWORK, write_random_bundle
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_svs(folder / "slide.svs", TissuePicture(4000, 4000, tissue=0.7), factors=(1,), mpp=0.5)
    return folder / "slide.svs", write_random_bundle(folder / "model", **SMALL_NETWORK)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_run_listens_on_loopback_alone_and_leaves_nothing_when_stopped(inputs, tmp_path, ending):
    slide, model = inputs
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    command = [sys.executable, "-m", "pathology", "score", slide, "--model", model, "--out", out, "--workers", "1"]
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that: not what a user's
    # terminal does.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(
            list(map(str, [*command, "--engine", "torch", "--block", "256"])),
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 120
    while not any(out.glob("slides/*/unfinished/block-*.npz")):
        assert running.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    family = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
    places = [c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    running.send_signal(ending)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 128 + ending
    assert said.count("interrupted; repeat the command to resume") == 1
    assert "Traceback" not in said
    assert len(places) >= 2
    assert {place.ip for place in places} == {"127.0.0.1"}
    # Orphans end within two seconds of their parent.
    _, alive = psutil.wait_procs(family, timeout=2)
    assert not alive
    assert not list(temporary.iterdir())
    assert not (out / ".lock").exists()
    assert any(out.glob("slides/*/unfinished/block-*.npz"))
