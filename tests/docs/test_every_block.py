"""Every block of code on every page of the documentation runs.

Python blocks of a page share their names, from top to bottom.  Lines of ``console`` and ``sh`` blocks that call
``pathology`` are carried out, in a folder that holds what they name.  A block that cannot run here stands under a
comment ``<!-- not run: why -->``; its commands must still be ones that exist, with options that exist.
"""

import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pathology.testing.constructed_results import write_constructed_results
from pathology.testing.synthetic_slides import TissuePicture, write_svs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.{10,}?) -->\s*$")
LANGUAGES = {"python", "console", "sh", "json", "text", "yaml"}

pytestmark = [
    # lifelines 0.30 calls pandas in a way that pandas 4 will drop.
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    # Where click keeps the name of a subcommand before its version 9.
    pytest.mark.filterwarnings("ignore:'protected_args' is deprecated:DeprecationWarning"),
]


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    runs: bool

    @property
    def commands(self):
        """Its calls of ``pathology``, as lists of arguments."""
        if self.language not in ("console", "sh"):
            return []
        lines = self.code.replace("\\\n", " ").splitlines()
        parts = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
        return [part[1:] for part in parts if part and part[0] == "pathology"]


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        before = text[: match.start()]
        runs = NOT_RUN.search(before) is None
        found.append(Block(page.name, before.count("\n") + 1, match[1], match[2], runs))
    return found


ALL = {page.name: blocks(page) for page in PAGES}


def test_there_are_pages_and_blocks():
    assert {"README.md", "survival.md", "viewer.md", "exports.md"} <= set(ALL)
    assert sum(block.runs and block.language == "python" for page in ALL.values() for block in page) >= 12


@pytest.mark.parametrize("name", ALL)
def test_every_block_says_what_it_is(name):
    for block in ALL[name]:
        assert block.language in LANGUAGES, f"{name}:{block.line}"
    fences = re.findall(r"^```", next(p for p in PAGES if p.name == name).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(ALL[name])


def parse(arguments):
    """Let the command line itself read a command, without carrying it out."""
    from pathology.cli.app import app

    command, rest, context = get_command(app), list(arguments), None
    while hasattr(command, "commands"):
        context = command.make_context(command.name, rest, parent=context)
        rest = [*getattr(context, "protected_args", ()), *context.args]
        name, command, rest = command.resolve_command(context, rest)
        if not hasattr(command, "commands"):
            command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", [name for name, found in ALL.items() if any(block.commands for block in found)])
def test_every_command_exists_with_its_options(name):
    for block in ALL[name]:
        for command in block.commands:
            parse(command)


@pytest.mark.parametrize("name", [name for name, found in ALL.items() if any(b.language == "yaml" for b in found)])
def test_every_file_of_settings_can_be_given(name, tmp_path):
    from pathology.configuration import configured, refined
    from pathology.radiology.models.train_settings import TrainSettings as RadiologyTrainSettings
    from pathology.settings import ScoreConfig
    from pathology.systems.system import system_modules
    from pathology.training.classifier.settings import TrainSettings

    models = {"README.md": ScoreConfig, "classifiers.md": TrainSettings, "radiology.md": RadiologyTrainSettings}
    for block in ALL[name]:
        if block.language == "yaml":
            file = tmp_path / "config.yaml"
            file.write_text(block.code)
            settings = configured(models[name], {}, file=file)
            if name != "README.md":
                refined(system_modules()[settings.system].recipe(), settings.recipe, file=file, under="recipe")


def test_a_command_that_does_not_exist_would_be_noticed():
    import click

    for wrong in (["scores", "x"], ["score", "x", "-m", "m", "--ot", "y"], ["patient", "show"]):
        with pytest.raises(click.UsageError):
            parse(wrong)


def _clinical_table(random, count):
    days = random.exponential(1200, count).round() + 1
    return pd.DataFrame(
        {
            "patient": [f"STS_{i:03d}" for i in range(1, count + 1)],
            "age": random.normal(60, 10, count).round().clip(18, 95),
            "size_cm": random.gamma(4, 2, count).round(1),
            "residual": random.choice(["R0", "R1"], count),
            "site": random.choice(["leg", "trunk"], count),
            "OS": (random.random(count) < 0.7).astype(int),
            "OS.time": days,
        }
    )


def _cohort(folder):
    """Clinical tables, imaging of two patients, and methylation of a sample."""
    random = np.random.default_rng(0)
    _clinical_table(random, 90).to_csv(folder / "table.csv", index=False)
    others = _clinical_table(np.random.default_rng(1), 60)
    others.assign(hospital=["North", "South"] * 30).to_csv(folder / "other.csv", index=False)
    m_values = random.normal(size=400).round(3)
    pd.DataFrame({"chrom": "1", "pos": np.arange(400) * 250, "mval": m_values}).to_csv(
        folder / "calls.tsv", sep="\t", index=False
    )
    transcripts = [f"T{i}" for i in range(12)]
    start = np.arange(12) * 5_000 + 20_000
    pd.DataFrame({"EnsmblID_T": transcripts, "Strand": "+", "Chr": "1", "Start": start, "End": start + 900}).to_csv(
        folder / "promoters.tsv", sep="\t", index=False
    )
    pd.DataFrame({"EnsmblID_T": transcripts, "chip": np.arange(12.0), "control": 3.0}).to_csv(
        folder / "signals.tsv", sep="\t", index=False
    )
    (folder / "RAD").mkdir()
    pd.DataFrame({"patient_id": ["STS_001", "STS_002"], "modality": "MR", "volume_ml": [120.0, 80.5]}).to_csv(
        folder / "RAD" / "results.csv", index=False
    )


def prepare(folder):
    """Put into a folder what the pages name, and return the names their Python uses."""
    picture = TissuePicture(1400, 1200, tissue=0.7)
    for place in ("slides", "SLIDES"):
        (folder / place).mkdir()
        write_svs(folder / place / "a.svs", picture, factors=(1, 4), tile=256)
    return {}


def with_results(folder):
    names = prepare(folder)
    for run in ("OUT", "OUT1", "OUT2"):
        write_constructed_results(folder / run, detections=20, dimensions=(1500, 1200))
    edited = folder / "edited.geojson"
    from pathology.outputs.export.exports import export_slide
    from pathology.outputs.results.results_folder import open_results

    export_slide(open_results(folder / "OUT")["square"], "detections", folder).rename(edited)
    return {**names, "OUT": folder / "OUT", "FOLDER": folder / "exports"}


def with_cohort(folder):
    names = with_results(folder)
    _cohort(folder)
    return names


PREPARED = {"exports.md": with_results, "viewer.md": with_results, "survival.md": with_cohort}
"""What a page needs beyond slides."""


def carry_out(arguments, folder):
    if arguments[0] == "view":
        _view(arguments, folder)
        return
    from pathology.cli.app import app

    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, f"pathology {shlex.join(arguments)}\n{done.output}"


def _view(arguments, folder):
    """A viewer serves until it is told to end."""
    command = [sys.executable, "-c", "from pathology.cli import main; main()", *arguments, "--no-browser"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            said = []
            for line in running.stdout:
                said.append(line)
                if "http://127.0.0.1:" in line:
                    break
            assert said
            assert "http://127.0.0.1:" in said[-1], running.stderr.read()
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, found in ALL.items() if any(b.runs for b in found)])
def test_the_blocks_of_a_page_run(name, tmp_path, monkeypatch, capsys, write_keras_weights):
    monkeypatch.chdir(tmp_path)
    write_keras_weights(tmp_path / "weights.h5")
    names = {"__name__": "documentation", **PREPARED.get(name, prepare)(tmp_path)}
    for block in ALL[name]:
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.code, f"{name}:{block.line}", "exec"), names)
        for command in block.commands:
            carry_out(command, tmp_path)
    capsys.readouterr()
