"""The command line, as a user meets it."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from pathology.cli import doctor
from pathology.cli.app import app
from pathology.errors import OutputError
from pathology.nameless_user import name_nameless_user
from pathology.testing.random_bundle import write_random_bundle
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "pathology", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    picture = TissuePicture(700, 600, tissue=0.8)
    return write_svs(tmp_path_factory.mktemp("slides") / "small.svs", picture, factors=(1,))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_random_bundle(tmp_path_factory.mktemp("models") / "random-densenet", patch=64)


@pytest.mark.parametrize(
    ("arguments", "used"),
    [
        (["--help"], []),
        (["score", "--help"], ["pydantic"]),  # its options are the fields of a settings model
        (["tile", "--help"], []),
        (["models", "--help"], []),
    ],
)
def test_help_imports_nothing_heavy(arguments, used):
    code = (
        "import sys\n"
        "from pathology.cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = ['torch', 'numpy', 'cv2', 'zarr', 'dask', 'pandas', 'matplotlib', 'pydantic', 'PIL']\n"
        "print('HEAVY', [m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"HEAVY {used}")


def test_importing_the_package_imports_no_torch():
    code = "import sys, pathology; print([m for m in ('torch', 'numpy', 'dask') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version():
    import pathology

    assert CliRunner().invoke(app, ["--version"]).output.strip() == f"pathology {pathology.__version__}"


def test_score_then_nothing_to_do_then_heatmap(slide, model, tmp_path):
    out = tmp_path / "out"
    first = run("score", slide, "--model", model, "--out", out, "--engine", "torch", "--verbose")
    assert first.returncode == 0, first.stderr
    assert "1 scored, 0 abstained, 0 failed" in first.stdout
    assert "Research use only" in first.stdout
    assert "[1/1] small:" in first.stderr
    assert "\x1b[" not in first.stdout + first.stderr  # plain where it is no terminal
    again = run("score", slide, "--model", model, "--out", out, "--engine", "torch")
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout


def test_a_batch_with_a_bad_slide_exits_with_1(model, tmp_path):
    (tmp_path / "bad.svs").write_text("no slide")
    done = run("score", tmp_path / "bad.svs", "--model", model, "--out", tmp_path / "out", "--engine", "torch")
    assert done.returncode == 1
    assert "failed: bad: this is a text file" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "no-such-model"}, "no model is called"),
        ({"--model": "/nowhere/model.pt"}, ".pt"),
        ({"--mpp": "-1"}, "mpp"),
        ({"--min-tissue": "2"}, "min-tissue"),
        ({"--precision": "sloppy"}, "precision"),
        ({"--engine": "steam"}, "engine"),
        ({"--workers": "0"}, "workers"),
    ],
)
def test_wrong_usage_exits_with_2_and_writes_nothing(slide, model, tmp_path, change, message):
    options = {"--model": str(model), "--out": str(tmp_path / "out"), **change}
    done = run("score", slide, *(part for pair in options.items() for part in pair))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_slide_that_is_not_there(model, tmp_path):
    done = run("score", tmp_path / "gone.svs", "--model", model, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_info(slide):
    text = CliRunner().invoke(app, ["info", str(slide)])
    assert text.exit_code == 0
    assert "700 x 600 pixels" in text.output
    assert "0.5 µm per pixel (from: file)" in text.output
    data = json.loads(CliRunner().invoke(app, ["info", "--json", str(slide)]).output)
    assert data["levels"][0]["width"] == 700
    assert len(data["fingerprint"]) == 64


def test_info_on_what_is_no_slide(tmp_path):
    (tmp_path / "x.svs").write_bytes(b"")
    done = run("info", tmp_path / "x.svs")
    assert done.returncode == 1
    assert "empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_models(model, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_MODELS", str(model.parent))
    listed = CliRunner().invoke(app, ["models", "list"])
    assert "random-densenet 1.0.0: Random weights for tests" in listed.output
    shown = CliRunner().invoke(app, ["models", "show", "random-densenet"])
    assert shown.exit_code == 0
    assert "knows nothing" in shown.output
    verified = CliRunner().invoke(app, ["models", "verify", str(model)])
    assert verified.exit_code == 0
    assert "FAIL" not in verified.output


def test_a_model_travels(model, tmp_path, monkeypatch):
    out = CliRunner().invoke(app, ["models", "export", str(model), "--out", str(tmp_path)])
    assert out.exit_code == 0, out.output
    archive = tmp_path / "random-densenet-1.0.0.zip"
    assert archive.exists()
    taken = CliRunner().invoke(app, ["models", "import", str(archive), "--into", str(tmp_path / "mine")])
    assert taken.exit_code == 0, taken.output
    monkeypatch.setenv("PATHOLOGY_MODELS", str(tmp_path / "mine"))
    assert "random-densenet 1.0.0" in CliRunner().invoke(app, ["models", "list"]).output


def test_heatmap(slide, model, tmp_path):
    from PIL import Image

    done = run("heatmap", slide, "--model", model, "--class", "b", "--out", tmp_path / "b.png", "--engine", "torch")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.width > 700
    wrong = run("heatmap", slide, "--model", model, "--class", "z", "--out", tmp_path / "z.png")
    assert wrong.returncode == 2
    assert "a, b, c" in wrong.stderr
    assert not (tmp_path / "z.png").exists()


def test_doctor():
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    assert "Ready to score." in done.stdout


def test_doctor_names_a_user_without_name_or_home(monkeypatch, tmp_path):
    def unknown(_):
        raise KeyError("uid not found")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("HOME", "/dev/null/home")
    for name in ("XDG_CACHE_HOME", "PATHOLOGY_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises((KeyError, OSError)):  # what libraries would meet, were the user not given a name
        doctor._user()
    name_nameless_user()
    assert doctor._user() == f"uid-{os.getuid()}; the home folder is missing or not writable: works, without a cache"
    monkeypatch.setenv("PATHOLOGY_CACHE", "/dev/null/cache")
    with pytest.raises(OutputError, match="/dev/null/cache"):
        doctor._user()
    monkeypatch.setattr("tempfile.TemporaryFile", (tmp_path / "gone").open)
    with pytest.raises(OSError, match="No such file"):
        doctor._temporary()
