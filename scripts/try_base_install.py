"""Install the package without extras into a new environment, use it there, and print size and time.

Run as ``python scripts/try_base_install.py SLIDE [--in FOLDER] [--beside PACKAGE ...]``.  The wheel is built from this
checkout and installed with ``constraints.txt``.  The slide is scored, drawn, exported, tiled and viewed; then every
command is called without an extra, and must answer in one line.  Other packages, such as ``wsinfer``, are installed
beside it, one after the other, for comparison; ``[all]`` is this one with all extras.  Takes minutes and gigabytes;
the environments are removed at the end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("osteosarcoma-viability", "mitosis-yolov4")
FORMATS = ("geojson", "detections", "detections-csv", "patches", "ome-zarr", "ome-tiff", "npz", "overlay")
TREE = """
import json, click, typer
from pathology.cli.app import app
from pathology.cli.requirements import NEEDS, commands_of
calls = {}
for path, command in commands_of(typer.main.get_command(app)):
    given = []
    with click.Context(command) as context:
        for parameter in command.get_params(context):
            if parameter.required or parameter.name in ("system", "cohort", "slides"):
                given += parameter.opts[:1] if isinstance(parameter, click.Option) else []
                given.append("1" if parameter.type.name in ("integer", "float") else "nothing")
    calls[path] = [*path.replace("train-subtypes", "train subtypes").split(), *given]
print(json.dumps(calls))
"""


def size_of(folder: Path) -> float:
    """Return the size of a folder in gigabytes."""
    return sum(p.lstat().st_size for p in folder.rglob("*")) / 1e9


def installed(venv: Path, package: str, *, constrained: bool) -> set[str]:
    """Install a package into a new environment without pip's cache, print time and size, and return what is in it."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, env=environment())
    pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    limits = ["--constraint", ROOT / "constraints.txt"] if constrained else []
    command = [*pip, "install", "--quiet", "--no-cache-dir", *limits, package]
    done = subprocess.run(command, check=False, env=environment(), capture_output=True, text=True)
    name = Path(package).name
    if done.returncode:
        print(f"{name}: not installed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}", flush=True)
        return set()
    print(f"{name}: installed in {time.monotonic() - began:.0f} s, {size_of(venv):.2f} GB", flush=True)
    listed = subprocess.run([*pip, "list", "--format", "json"], check=True, capture_output=True, env=environment())
    return {entry["name"].lower() for entry in json.loads(listed.stdout)}


class Environment:
    """A virtual environment with the wheel in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        self.failures: list[str] = []

    def install(self) -> None:
        """Build the wheel and install it without extras."""
        wheels = self.folder / "wheels"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT], check=True, env=environment()
        )
        (self.wheel,) = wheels.glob("sarcoma_pathology-*.whl")
        names = installed(self.folder / "venv", str(self.wheel), constrained=True)
        print(f"{len(names)} packages; torch is {'' if 'torch' in names else 'not '}installed", flush=True)

    def call(self, *arguments: str | Path, expected: tuple[int, ...] = (0,)) -> None:
        """Run ``pathology`` and note what was not expected."""
        began = time.monotonic()
        command = [self.bin / "pathology", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.folder, env=environment())
        lines = done.stderr.strip().splitlines()
        bad = done.returncode not in expected or any("Traceback" in line for line in lines)
        said = lines[-1] if lines else ""
        told = f"{' '.join(map(str, arguments))}: {done.returncode}, {time.monotonic() - began:.1f} s {said[:160]}"
        print(f"{'FAIL' if bad else 'ok  '}  {told}", flush=True)
        if bad:
            self.failures.append(told)

    def view(self, results: Path) -> None:
        """Start the viewer, fetch its page, and stop it."""
        command = [self.bin / "pathology", "view", results, "--no-browser"]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self.folder, env=environment()) as server:
            assert server.stdout is not None
            address = next((w for line in server.stdout for w in line.split() if w.startswith("http://")), None)
            status = None
            if address is not None:
                with urllib.request.urlopen(address, timeout=30) as page:  # noqa: S310 - our own server
                    status = page.status
            server.terminate()
        print(f"{'ok  ' if status == 200 else 'FAIL'}  view: page {status}, {time.monotonic() - began:.1f} s")
        if status != 200:
            self.failures.append("view")


def environment() -> dict[str, str]:
    """Return the variables without those that would lead to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PYTHONUNBUFFERED": "1"}


def main(slide: Path, folder: Path, beside: list[str]) -> int:
    """Install, use and remove; return the exit status."""
    base = Environment(folder)
    base.install()
    for package in beside:
        own = package.startswith("[")
        installed(folder / "beside", f"{base.wheel}{package}" if own else package, constrained=own)
        shutil.rmtree(folder / "beside", ignore_errors=True)
    base.call("doctor")
    base.call("info", slide)
    for name in MODELS:
        base.call("models", "show", name)
        base.call("models", "verify", name)
        base.call("score", slide, "--model", name, "--out", folder / name)
    base.call("heatmap", slide, "--model", MODELS[0], "--out", folder / "heatmap.png")
    base.call("tile", slide, "--out", folder / "tiles")
    for name in MODELS:
        base.call("export", folder / name, *(word for f in FORMATS for word in ("--format", f)), expected=(0, 1))
    base.view(folder / MODELS[0])
    listed = subprocess.run(
        [base.bin / "python", "-c", TREE], check=True, capture_output=True, cwd=folder, env=environment()
    )
    for call in json.loads(listed.stdout).values():
        if call != ["doctor"]:
            base.call(*call, expected=(0, 1, 2))
    print(f"{len(base.failures)} failed" if base.failures else "Everything works.")
    return 1 if base.failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--in", dest="folder", type=Path, help="where to put the environments")
    parser.add_argument("--beside", nargs="*", default=[], metavar="PACKAGE")
    given = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="base-", dir=given.folder))
    try:
        sys.exit(main(given.slide.resolve(), scratch, given.beside))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
