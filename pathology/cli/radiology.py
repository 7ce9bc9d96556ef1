"""``pathology radiology``: inspect studies, segment, extract features, train, predict."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathology.cli.settings_options import Config, given_settings, option_names, settings_command

if TYPE_CHECKING:
    import pandas as pd

    from pathology.bundle.card import Metric
    from pathology.radiology.io.cohort import Cohort
    from pathology.radiology.models.bundle import CardText
    from pathology.radiology.models.recipe import Recipe
    from pathology.radiology.models.train_settings import EvaluateSettings, TrainSettings

__all__ = ["app"]

app = typer.Typer(
    help="MRI, CT and PET: inspect, segment, extract features, train, predict. Research use only.",
    no_args_is_help=True,
)

CohortFolder = Annotated[
    Path,
    typer.Argument(
        help="Cohort folder: one subfolder per patient with <sequence>_image and <sequence>_mask.", show_default=False
    ),
]
Change = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a recipe setting, NAME=VALUE; nested: optimiser.steps=200, list: [CT,PET]; repeatable.",
        show_default=False,
    ),
]
Clinical = Annotated[
    Path | None,
    typer.Option(
        "--clinical",
        help="Clinical CSV, one row per patient; required by models that predict from clinical values.",
        show_default=False,
    ),
]
PatientColumn = Annotated[str, typer.Option("--patient-column", help="Patient ID column of the clinical CSV.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


@app.command("info")
def info(
    path: Annotated[Path, typer.Argument(help="Volume file, DICOM folder or cohort folder.", show_default=False)],
) -> None:
    """Show the contents of a study or cohort and list problems; exit status 1 if there are any."""
    from pathology.errors import PathologyError
    from pathology.radiology.io.cohort import read_cohort
    from pathology.radiology.io.open import open_volume

    if not (path.is_dir() and any(p.is_dir() for p in path.iterdir())):
        typer.echo(_described(open_volume(path).volume))
        raise typer.Exit
    failed = 0
    cohort = read_cohort(path)
    for case in cohort.cases:
        for sequence in sorted(case.images):
            try:
                opened = case.open(sequence)
                masks = case.contours(sequence, opened) if case.masks.get(sequence) else ()
                volumes = ", ".join(f"mask {m.volume_mm3 / 1000:.1f} cm³" for m in masks) or "no mask"
                typer.echo(f"{case.patient_id}  {_described(opened.volume)}, {volumes}")
            except PathologyError as error:
                failed += 1
                typer.echo(f"{case.patient_id}  {sequence}: {error}", err=True)
    for patient, problem in cohort.problems.items():
        failed += 1
        typer.echo(f"{patient}  {problem}", err=True)
    typer.echo(f"{len(cohort)} patients, {failed} unusable images or masks")
    raise typer.Exit(1 if failed else 0)


def _described(volume: Any) -> str:  # noqa: ANN401  # pathology.radiology.io.volume.Volume, imported only where needed
    geometry = volume.geometry
    size = " x ".join(str(n) for n in geometry.size)
    spacing = " x ".join(f"{s:.3g}" for s in geometry.spacing)
    unit = f" {volume.unit}" if volume.unit else ""
    values = f"{volume.array.min():.4g} to {volume.array.max():.4g}{unit}"
    return f"{volume.name} ({volume.modality}): {size} voxels of {spacing} mm, {geometry.orientation}, {values}"


@app.command("register")
def register_command(
    fixed: Annotated[Path, typer.Argument(help="Fixed image.", show_default=False)],
    moving: Annotated[
        Path, typer.Argument(help="Moving image, which is aligned with the fixed image.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Output folder: aligned image and checkerboard figure.", show_default=False),
    ],
    deformable: Annotated[
        bool, typer.Option("--deformable", help="Add a B-spline deformation after the rigid alignment.")
    ] = False,
) -> None:
    """Register two images of one patient and draw a checkerboard for visual inspection."""
    from pathology.radiology.images.montage import draw_registration
    from pathology.radiology.images.registration import RegistrationSettings, register, resample
    from pathology.radiology.io.nifti import write_nifti
    from pathology.radiology.io.open import open_volume

    still, mobile = open_volume(fixed).volume, open_volume(moving).volume
    found = register(still, mobile, RegistrationSettings(deformable=deformable))
    aligned = found.apply(mobile)
    write_nifti(aligned, out / "aligned.nii.gz")
    before = resample(mobile, still.geometry)
    draw_registration(still, before, aligned).savefig(out / "check.png", dpi=110)
    typer.echo(
        f"rotation {found.rotation_degrees:.1f}°, translation {found.shift_mm:.1f} mm; mutual information "
        f"{-found.metric_before:.3f} before, {-found.metric_after:.3f} after; inspect {out / 'check.png'}"
    )


@app.command("adc")
def adc(
    folder: Annotated[Path, typer.Argument(help="Folder with a diffusion-weighted DICOM series.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output NIfTI file.", show_default=False)],
    series: Annotated[
        str | None,
        typer.Option("--series", help="SeriesInstanceUID, if the folder holds several series.", show_default=False),
    ] = None,
) -> None:
    """Compute an apparent diffusion coefficient map, in mm²/s, from two or more b-values."""
    from pathology.radiology.io.adc import adc_map
    from pathology.radiology.io.dicom import read_diffusion_series
    from pathology.radiology.io.nifti import write_nifti

    volumes = read_diffusion_series(folder, series_uid=series)
    write_nifti(adc_map(volumes), out)
    typer.echo(f"b-values {', '.join(f'{b:g}' for b in volumes)} s/mm²: {out}")


@app.command("segment")
def segment(
    model: Annotated[Path, typer.Argument(help="Segmentation bundle folder.", show_default=False)],
    images: Annotated[
        list[str],
        typer.Argument(help="SEQUENCE=PATH for each input sequence: a file or a DICOM folder.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder: mask, figure and DICOM SEG.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--name", help="Pseudonym shown in the figure title.")] = "patient",
    device: Device = "cpu",
) -> None:
    """Segment the tumour in the images of one patient; DICOM input also gives a DICOM SEG."""
    import json

    from pathology.errors import UsageError
    from pathology.radiology.io.cohort import Case
    from pathology.radiology.models.registry import predict_case

    paths = {}
    for text in images:
        sequence, sign, path = text.partition("=")
        if not sign:
            raise UsageError(f"'{text}' does not name its sequence", remedy="Write SEQUENCE=PATH, such as CT=scan/")
        paths[sequence] = Path(path)
    found = predict_case(model, Case(name, paths, {}), out, device=device)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False))


@app.command("features")
def features(
    cohort: CohortFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output CSV file.", show_default=False)],
    sequences: Annotated[str, typer.Option("--sequences", help="Comma-separated sequences.", show_default=False)],
    shell: Annotated[
        float | None,
        typer.Option(
            "--shell", help="Also extract features from a peritumoural shell of this width, in mm.", show_default=False
        ),
    ] = None,
    deep: Annotated[
        str | None,
        typer.Option(
            "--deep", help="Add deep features of this network, such as resnet34=imagenet.", show_default=False
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Extract IBSI radiomic features of each tumour; one row per patient."""
    from pathology.atomic_files import require_writable, write_text
    from pathology.radiology.io.cohort import read_cohort
    from pathology.radiology.models.deep_features import DeepFeatureSettings
    from pathology.radiology.models.signature_recipe import SignatureRecipe

    names = tuple(s.strip() for s in sequences.split(",") if s.strip())
    found = read_cohort(cohort).having(names)
    networks: tuple[DeepFeatureSettings, ...] = ()
    if deep is not None:
        backbone, _, start = deep.partition("=")
        networks = tuple(
            DeepFeatureSettings.model_validate({"sequence": s, "backbone": backbone, "start": start or "random"})
            for s in names
        )
    recipe = SignatureRecipe(sequences=names, label="none", classes=("0", "1"), shell_mm=shell, deep=networks)
    require_writable(out.parent)
    with _ProgressBar() as progress:
        table = recipe.table(found, device=device, progress=progress)
    write_text(out, table.to_csv(lineterminator="\n"))
    typer.echo(f"{len(table)} patients, {table.shape[1]} features: {out}")


def _evaluate_settings() -> type[EvaluateSettings]:
    from pathology.radiology.models.train_settings import EvaluateSettings

    return EvaluateSettings


def _train_settings() -> type[TrainSettings]:
    from pathology.radiology.models.train_settings import TrainSettings

    return TrainSettings


@app.command("evaluate", cls=settings_command(_evaluate_settings, arguments=("system", "cohort")))
def evaluate(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="Trained bundle to evaluate on the cohort as it is, never refitted: evaluate COHORT --model BUNDLE.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Report folder, with --model.", show_default=False)
    ] = None,
    centre: Annotated[
        str | None, typer.Option("--centre", help="Clinical column of the centre, with --model.", show_default=False)
    ] = None,
    change: Change = None,
    config: Config = None,
) -> None:
    """Evaluate a system on a cohort by patient-level cross-validation, or a trained bundle on other patients."""
    from pathology.configuration import configured
    from pathology.errors import UsageError
    from pathology.radiology.io.cohort import read_cohort

    if model is not None:
        _evaluate_model(model, given_settings(context), out, centre, more=bool(change or config))
        return
    if out is not None or centre is not None:
        raise UsageError("--out and --centre are for a trained bundle", remedy="Pass --model BUNDLE")
    settings = configured(_evaluate_settings(), given_settings(context), file=config, options=option_names(context))
    recipe = _recipe(settings, config, change or [])
    found = read_cohort(settings.cohort, settings.clinical, patient_column=settings.patient_column)
    _require_readable(recipe, found, settings)
    for metric in _evaluated(recipe, found, settings):
        typer.echo(_metric_line(metric))


@app.command(
    "train", cls=settings_command(_train_settings, arguments=("system", "cohort"), named={"limits": "--limit"})
)
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output bundle folder.", show_default=False)],
    change: Change = None,
    config: Config = None,
) -> None:
    """Train a system on a cohort and write a bundle with its model card."""
    from pathology.bundle.card import CARD_NAME
    from pathology.configuration import CONFIG_NAME, configured, has_config, write_config
    from pathology.errors import OutputError
    from pathology.folder_lock import locked_folder
    from pathology.radiology.io.cohort import read_cohort
    from pathology.radiology.models.bundle import CardText, read_radiology_card
    from pathology.radiology.models.recipe import NOT_MEASURED
    from pathology.radiology.models.training_loop import keeping_states

    settings = configured(_train_settings(), given_settings(context), file=config, options=option_names(context))
    recipe = _recipe(settings, config, change or [])
    found = read_cohort(settings.cohort, settings.clinical, patient_column=settings.patient_column)
    limits = [*settings.limits, f"Trained on {len(found)} patients from one source; no external validation."]
    if settings.constructed:
        limits.append("Trained on constructed data: no clinical claim of any kind is possible.")
    text = CardText.model_validate(
        {
            "name": out.name.lower().replace("_", "-"),
            "title": _system_module(settings.system).SYSTEM.title,
            "training_data": [
                {
                    "name": settings.data_name,
                    "source": settings.data_source,
                    "licence": settings.data_licence,
                    "patients": len(found),
                    "images": len(found),
                    "used_for": "training",
                }
            ],
            "limits": limits,
        }
    )
    if settings.features is not None:
        _check_table(recipe, found, settings.features, settings.device)
    _require_readable(recipe, found, settings)
    used = settings.model_copy(
        update={
            "recipe": recipe.model_dump(mode="json"),
            **{
                name: path.absolute()
                for name in ("cohort", "clinical", "features")
                if (path := getattr(settings, name)) is not None
            },
        }
    )
    again = f"pathology radiology train --config {CONFIG_NAME} --out OTHER"
    states = out / "training"
    with locked_folder(out), keeping_states(states):
        # The card is written last: what has one is whole.
        if not (out / CARD_NAME).exists():
            metrics = _evaluated(recipe, found, settings) if settings.evaluate else (NOT_MEASURED,)
            write_config(out / CONFIG_NAME, used, again)
            _trained(recipe, found, out, text, settings, metrics)
        elif not has_config(out / CONFIG_NAME, used, again):
            raise OutputError("the folder already contains a bundle", where=out, remedy="Choose another folder")
        shutil.rmtree(states, ignore_errors=True)
        card = read_radiology_card(out)
    for metric in card.metrics:
        typer.echo(_metric_line(metric))
    typer.echo(f"wrote {out}: {card.parameters:,} parameters, {card.split}")


@app.command("predict")
def predict(
    model: Annotated[Path, typer.Argument(help="Radiology bundle folder.", show_default=False)],
    cohort: CohortFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Results folder.", show_default=False)],
    clinical: Clinical = None,
    patient_column: PatientColumn = "patient",
    device: Device = "cpu",
) -> None:
    """Apply a bundle to every patient of a cohort; repeat the command to resume."""
    from pathology.radiology.io.cohort import read_cohort
    from pathology.radiology.predict import predict_cohort

    with _ProgressBar() as progress:
        given = read_cohort(cohort, clinical, patient_column=patient_column)
        table = predict_cohort(model, given, out, device=device, progress=progress)
    if "notes" in table:
        for row in table[table["notes"].fillna("") != ""].to_dict("records"):
            typer.echo(f"{row['patient_id']}: {row['notes']}", err=True)
    failed = table[table["status"] != "done"]
    for row in failed.to_dict("records"):
        typer.echo(f"{row['patient_id']}: {row['error']}", err=True)
    typer.echo(f"{len(table) - len(failed)} of {len(table)} patients done: {out / 'index.html'}")
    raise typer.Exit(1 if len(failed) else 0)


def _system_module(system: str) -> Any:  # noqa: ANN401  # a module of pathology.systems
    from pathology.errors import UsageError
    from pathology.systems.system import system_modules

    systems = {name: module for name, module in system_modules().items() if module.SYSTEM.code.startswith("B")}
    if system not in systems:
        raise UsageError(f"unknown radiology system '{system}'", remedy=f"Choose one of {', '.join(sorted(systems))}")
    return systems[system]


def _recipe(settings: EvaluateSettings, config: Path | None, changes: list[str]) -> Recipe:
    """Return the system's recipe with the overrides of the YAML file, then of ``--set``."""
    import yaml
    from pydantic import ValidationError

    from pathology.configuration import refined
    from pathology.errors import UsageError
    from pathology.radiology.models.registry import require_libraries

    published: Recipe = _system_module(settings.system).recipe()
    if settings.features is None:
        require_libraries(published.kind)
    recipe = refined(published, settings.recipe, file=config, under="recipe")
    values = recipe.model_dump(mode="json")
    for text in changes:
        name, sign, value = text.partition("=")
        *parents, last = name.split(".")
        place: Any = values
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not sign or not isinstance(place, dict) or (not parents and last not in place):
            raise UsageError(f"--set {text}: unknown setting", remedy=f"Choose one of {', '.join(values)}")
        place[last] = yaml.safe_load(value)
    try:
        return type(recipe).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--set: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    from pathology.errors import InputTableError

    table = pd.read_csv(path, dtype={"patient_id": str})
    if "patient_id" not in table.columns:
        raise InputTableError(
            "missing column 'patient_id'", where=path, remedy="Use a table from 'pathology radiology features'"
        )
    return table.set_index("patient_id")


def _evaluate_model(model: Path, given: dict[str, Any], out: Path | None, centre: str | None, *, more: bool) -> None:
    """Evaluate a bundle on the cohort; what was fixed in training cannot be given."""
    from pathology.errors import UsageError
    from pathology.radiology.evaluate import evaluate_bundle
    from pathology.radiology.io.cohort import read_cohort

    # With --model the only argument is the cohort, which stands where a system would.
    folder = given.pop("system", None)
    clinical, column = given.pop("clinical", None), given.pop("patient_column", "patient")
    seed, device = given.pop("seed", 0), given.pop("device", "cpu")
    if folder is None or given or more:
        raise UsageError(
            "a trained bundle takes a cohort, --clinical, --patient-column, --centre, --seed, --device and --out only",
            remedy="Write: pathology radiology evaluate COHORT --model BUNDLE --clinical TABLE --out REPORT",
        )
    if out is None:
        raise UsageError("--out is missing", remedy="Name the folder of the report")
    cohort = read_cohort(Path(folder), None if clinical is None else Path(clinical), patient_column=column)
    with _ProgressBar() as progress:
        said = evaluate_bundle(model, cohort, out, centre=centre, device=device, seed=int(seed), progress=progress)
    for name, value in said.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"{out / 'report.html'}. Research use only.")


def _evaluated(recipe: Recipe, cohort: Cohort, settings: EvaluateSettings) -> tuple[Metric, ...]:
    from pathology.radiology.models.signature_recipe import SignatureRecipe
    from pathology.radiology.models.survival_recipe import SurvivalRecipe

    shared: dict[str, Any] = {"folds": settings.folds, "seed": settings.seed}
    with _ProgressBar() as progress:
        if settings.features is not None and isinstance(recipe, SignatureRecipe | SurvivalRecipe):
            chosen = _with_table(recipe, cohort, settings.features)
            return recipe.evaluate_table(_table(settings.features), chosen, **shared, progress=progress)
        return recipe.evaluate(cohort, **shared, device=settings.device, progress=progress)


def _trained(
    recipe: Recipe, cohort: Cohort, out: Path, text: CardText, settings: TrainSettings, metrics: tuple[Metric, ...]
) -> Any:  # noqa: ANN401  # a RadiologyCard
    from pathology.radiology.models.signature_recipe import SignatureRecipe
    from pathology.radiology.models.survival_recipe import SurvivalRecipe

    shared: dict[str, Any] = {
        "system": settings.system,
        "metrics": metrics,
        "constructed": settings.constructed,
        "seed": settings.seed,
        "device": settings.device,
    }
    with _ProgressBar() as progress:
        if settings.features is not None and isinstance(recipe, SignatureRecipe | SurvivalRecipe):
            chosen = _with_table(recipe, cohort, settings.features)
            return recipe.train_table(_table(settings.features), chosen, out, text, **shared)
        return recipe.train(cohort, out, text, **shared, progress=progress)


def _check_table(recipe: Recipe, cohort: Cohort, path: Path, device: str) -> None:
    """Reject a feature table that does not match the recipe, before a long evaluation starts."""
    from pathology.radiology.models.signature_recipe import SignatureRecipe
    from pathology.radiology.models.survival_recipe import SurvivalRecipe

    if isinstance(recipe, SignatureRecipe | SurvivalRecipe):
        measuring = recipe if isinstance(recipe, SignatureRecipe) else recipe.measuring
        measuring.check_table(_table(path), _with_table(recipe, cohort, path), device=device)


def _with_table(recipe: Any, cohort: Cohort, path: Path) -> Cohort:  # noqa: ANN401
    """Keep the patients with features, images and an outcome."""
    from pathology.radiology.models.survival_recipe import SurvivalRecipe

    if isinstance(recipe, SurvivalRecipe):
        chosen = recipe.patients(cohort)
    else:
        chosen = cohort.having(recipe.sequences, recipe.label)
    measured = set(_table(path).index)
    return chosen.take([i for i, p in enumerate(chosen.patients) if p in measured])


def _require_readable(recipe: Recipe, cohort: Cohort, settings: EvaluateSettings) -> None:
    """Name every damaged image at once, before hours of work; a feature table needs no images."""
    if settings.features is None:
        cohort.require_readable(getattr(recipe, "sequences", None))


def _metric_line(metric: Metric) -> str:
    if metric.value is None or metric.interval is None:
        return f"{metric.metric}: not available ({metric.note})"
    low, high = metric.interval
    return (
        f"{metric.metric}: {metric.value:.3f} ({metric.level:.0%} CI {low:.3f}-{high:.3f}, n = {metric.n} "
        f"{metric.unit}), {metric.data}"
    )


class _ProgressBar:
    """A progress bar on terminals only; called with a name, completed steps and total steps."""

    def __enter__(self) -> _ProgressBar:
        from rich.console import Console
        from rich.progress import Progress

        self._tasks: dict[str, Any] = {}
        console = Console(stderr=True)
        self._progress = Progress(console=console, disable=not console.is_terminal)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)
