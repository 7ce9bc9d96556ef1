"""What the machine lacks, and options that suit no slide, end the run; no slide counts as failed for them."""

import sys

import pytest

from pathology.cli.app import main
from pathology.errors import MissingDependencyError, PathologyError, UnusableDeviceError, UsageError
from pathology.inference.workers.schedule import Failure, Halt
from pathology.scoring.batch import score
from pathology.scoring.guard import guarded
from pathology.testing import synthetic_slides
from pathology.testing.synthetic_tissue import TissuePicture


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    picture = TissuePicture(400, 400, tissue=0.6)
    path = tmp_path_factory.mktemp("slides") / "one.svs"
    return synthetic_slides.write_svs(path, picture, factors=(1,), mpp=0.5, objective_power=20)


def no_gpu():
    import torch

    return not torch.cuda.is_available()


IMPOSSIBLE = {
    "mpp": ({"mpp": 499}, UsageError, "--mpp is 499 .*between 0.05 and 20"),
    "stride": ({"stride": 100_000}, UsageError, "stride 100000 px leaves"),
    "engine": ({"engine": "tensorflow"}, UsageError, "unknown engine 'tensorflow'"),
    "device": ({"device": "gpu"}, UnusableDeviceError, "device 'gpu' does not exist"),
    "openvino on cuda": ({"engine": "openvino", "device": "cuda"}, UnusableDeviceError, "runs on the CPU"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_options_end_the_run_before_it_starts(slide, model, tmp_path, name):
    options, kind, message = IMPOSSIBLE[name]
    with pytest.raises(kind, match=message):
        score(slide, model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_ends_the_run_before_it_starts(slide, model, tmp_path):
    device = "cuda" if no_gpu() else "cuda:99"
    with pytest.raises(UnusableDeviceError, match=r"no CUDA device is available|does not exist"):
        score(slide, model, tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()


def test_an_engine_that_is_not_installed_ends_the_run_before_it_starts(slide, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match="OpenVINO engine is not installed"):
        score(slide, model, tmp_path / "out", engine="openvino")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("openvino", {"engine": "openvino"}),
        ("pathology.slide.stain.normalise", {"engine": "torch"}),
    ],
)
def test_a_library_that_workers_lack_is_no_slides_failure(slide, model, tmp_path, monkeypatch, module, options):
    """The caller has it and a worker does not: the run ends, and the next one scores the slide."""
    preload = tmp_path / "preload.py"
    preload.write_text(f"import sys\nsys.modules.pop({module!r}, None)\nsys.modules[{module!r}] = None\n")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", f"['{preload}']")
        with pytest.raises(MissingDependencyError):
            score(slide, model, out, **options)
    assert not list((out / "slides").glob("*/slide.json"))
    batch = score(slide, model, out, engine="torch")
    assert [result.status for result in batch] == ["scored"]
    assert batch.unchanged == 0


def test_the_command_says_what_is_wrong_and_the_corrected_one_scores(slide, model, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"

    def status(*arguments):
        monkeypatch.setattr(sys, "argv", ["pathology", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    command = ["score", str(slide), "--model", str(model), "--out", str(out), "--engine", "torch"]
    for wrong in (["--mpp", "499"], ["--device", "cuda:99"]):
        assert status(*command, *wrong) == 2
        assert "failed" not in capsys.readouterr().out
    assert status(*command, "--device", "cpu") == 0
    assert "1 scored, 0 abstained, 0 failed" in capsys.readouterr().out


def test_a_trained_aggregator_that_the_model_lacks_ends_the_run(slide, model, tmp_path):
    with pytest.raises(PathologyError, match="no aggregator 'attention'"):
        score(slide, model, tmp_path / "out", aggregator="attention")
    assert not (tmp_path / "out").exists()


class Job:
    path = "x.svs"


@pytest.mark.parametrize(
    ("error", "kind", "passing"),
    [
        (MissingDependencyError("no extra"), Halt, None),
        (UnusableDeviceError("no device"), Halt, None),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), Halt, None),
        (MemoryError(), Failure, True),
        (OSError(28, "No space left on device"), Failure, True),
        (OSError(5, "Input/output error"), Failure, False),
        (ValueError("odd"), Failure, False),
    ],
)
def test_whose_fault_an_error_is(error, kind, passing):
    @guarded
    def step(job):
        raise error

    outcome = step(Job())
    assert isinstance(outcome, kind)
    if passing is not None:
        assert outcome.passing is passing
    elif isinstance(error, ModuleNotFoundError):
        assert "timm" in outcome.error.what
