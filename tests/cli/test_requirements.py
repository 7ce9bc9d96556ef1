"""Every command in the base installation, which is simulated: the extras' modules cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import pathology
from pathology.cli import doctor
from pathology.cli.app import app
from pathology.cli.requirements import NEEDS, commands_of
from pathology.errors import UsageError
from pathology.extras import EXTRAS, install_command

WALK = """
import contextlib, io, json, sys, traceback
from pathology.extras import EXTRAS

names = {module for extra in EXTRAS.values() for module in extra.libraries}
names |= {"albucore", "itk"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

import click, typer
from pathology.cli.app import app, main
from pathology.cli.requirements import commands_of

def arguments(command):
    with click.Context(command):
        for parameter in command.get_params(click.Context(command)):
            if parameter.required or parameter.name in ("system", "cohort", "slides"):
                yield from parameter.opts[:1] if isinstance(parameter, click.Option) else ()
                yield "1" if parameter.type.name in ("integer", "float") else "nothing"

told = {}
further = json.loads(sys.argv[1])
calls = [
    (path, [*path.replace("train-subtypes", "train subtypes").split(), *arguments(command)])
    for path, command in commands_of(typer.main.get_command(app)) if path != "doctor"
]
for path, call in [*calls, *((" ".join(call), call) for call in further)]:
    sys.argv = ["pathology", *call]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc(file=err)
            status = "traceback"
    told[path] = [status, err.getvalue()]
print(json.dumps(told))
"""

WITH_OPTIONS = {
    "export nothing --format pdf": ["interop"],
    "export nothing --format geojson --format dicom-report": ["interop"],
    "heatmap nothing --model tiatoolbox:resnet18-kather100k --out nothing.png": ["tiatoolbox"],
    "score nothing --model tiatoolbox:resnet18-kather100k --out nothing": ["tiatoolbox"],
    "score nothing --model osteosarcoma-viability --slurm nothing.yaml --out nothing": ["cluster"],
    "features nothing --encoder uni --out nothing": ["encoders"],
    "features nothing --encoder torchvision:resnet18 --format trident --out nothing": ["encoders"],
    "features nothing --encoder osteosarcoma-viability --out nothing": ["torch"],
    "encoders add torchvision:resnet18 --from nothing": ["torch"],
    "score nothing --model osteosarcoma-viability --engine torch --out nothing": ["torch"],
    "score nothing --model osteosarcoma-viability --device cuda:0 --out nothing": ["torch"],
    "heatmap nothing --model osteosarcoma-viability --engine torch --out nothing.png": ["torch"],
    "models import nothing --card nothing": ["torch"],
    "encoders add timm:resnet18 --from nothing": ["encoders"],
    "patient build --clinical nothing.xlsx --out nothing": ["interop"],
    "patient build --slides nothing --survival nothing --out nothing": ["survival"],
}
ALWAYS = {path: list(needs({})) for path, needs in NEEDS.items() if needs({})}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-c", WALK, json.dumps([line.split() for line in WITH_OPTIONS])],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path_factory.mktemp("base"),
    )
    return json.loads(done.stdout)


def test_no_command_shows_a_traceback(told):
    paths = {path for path, _ in commands_of(typer.main.get_command(app))}
    assert paths <= told.keys() | {"doctor"}
    for path, (status, err) in told.items():
        assert status in (0, 1, 2), f"{path}: {err}"
        assert "Traceback" not in err


@pytest.mark.parametrize(("path", "extras"), [*ALWAYS.items(), *WITH_OPTIONS.items()])
def test_missing_extra_is_told_in_one_line(told, path, extras):
    status, err = told[path]
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("pathology: ")
    assert line.endswith(f"Install it: {install_command(*extras)}.")


def test_needs_name_commands_and_extras_that_exist():
    paths = {path for path, _ in commands_of(typer.main.get_command(app))}
    assert set(NEEDS) <= paths
    assert {extra for needs in NEEDS.values() for extra in needs({})} <= set(EXTRAS)


@pytest.fixture
def no_checks(monkeypatch):
    monkeypatch.setattr(doctor, "_CHECKS", ())


@pytest.mark.usefixtures("no_checks")
def test_doctor_lists_what_each_extra_brings_and_lacks(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lifelines", None)
    assert doctor.run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("extra '" in line for line in lines) == len(EXTRAS)
    (survival,) = (line for line in lines if "extra 'survival'" in line)
    assert survival == (
        "-     extra 'survival' (torch, torchvision, lifelines, scikit-learn, torchsurv): survival models; "
        "missing lifelines: pip install 'sarcoma-pathology[survival]'"
    )
    assert any("AGPL-3.0" in line for line in lines)


@pytest.mark.usefixtures("no_checks")
def test_doctor_fails_where_an_extra_asked_for_is_missing_or_broken(monkeypatch, capsys, tmp_path):
    assert doctor.run(["cohorts"]) == 0
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "idc_index_data.py").write_text("raise OSError('libhdf5.so.310: cannot open shared object file')")
    assert doctor.run(["cohorts"]) == 1
    assert "idc-index-data cannot be imported (OSError: libhdf5.so.310" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "idc_index_data", None)
    assert doctor.run(["cohorts"]) == 1
    assert "FAIL  extra 'cohorts'" in capsys.readouterr().out
    with pytest.raises(UsageError, match="unknown extra 'cohort'"):
        doctor.run(["cohort"])


WITHOUT = """
import sys
from pathology.extras import EXTRAS

NAMES = {module for extra in EXTRAS.values() for module in extra.libraries}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.slow
def test_the_base_scores_a_real_slide_and_uses_the_results(cmu_slide, tmp_path):
    """In processes, workers included, that cannot import what the extras bring: no torch."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "without"), str(Path(pathology.__file__).parents[1])]),
        "PATHOLOGY_CACHE": str(tmp_path / "cache"),
    }

    def call(*arguments):
        command = [sys.executable, "-m", "pathology", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    out = tmp_path / "results"
    call("score", cmu_slide, "--model", "osteosarcoma-viability", "--out", out)
    versions = json.loads((out / "run.json").read_text())["versions"]
    assert "openvino" in versions
    call("export", out, *(word for name in ("geojson", "ome-zarr", "overlay") for word in ("--format", name)))
    assert "agrees with torch: mean difference" in call("models", "verify", "mitosis-yolov4")
