"""``pathology survival``: fit, evaluate, predict and plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

if TYPE_CHECKING:
    import pandas as pd

    from pathology.survival.covariates import CovariateSettings
    from pathology.survival.crossvalidation import Candidate, CrossValidation
    from pathology.survival.models.base import FittedModel
    from pathology.survival.outcome import Outcome

__all__ = ["app"]

app = typer.Typer(help="Survival models: fit, evaluate, predict, plot. Research use only.", no_args_is_help=True)

TableFile = Annotated[
    Path, typer.Argument(help="CSV, TSV, XLSX or Parquet table, one row per patient.", show_default=False)
]
TimeColumn = Annotated[str, typer.Option("--time", help="Follow-up time column, in days.", show_default=False)]
EventColumn = Annotated[str, typer.Option("--event", help="Event column: 1 observed, 0 censored.", show_default=False)]
Numeric = Annotated[str, typer.Option("--numeric", help="Numeric columns, comma-separated.", show_default=False)]
Categorical = Annotated[
    str, typer.Option("--categorical", help="Categorical columns, comma-separated.", show_default=False)
]
Imputation = Annotated[
    str,
    typer.Option(
        "--imputation",
        help="Imputation of missing values: median, or knn (stores the preprocessed training rows in the model).",
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a model setting, NAME=VALUE; layer widths as 32x16; repeatable.", show_default=False
    ),
]
Years = Annotated[str, typer.Option("--years", help="Prediction times, in years, comma-separated.")]
Seed = Annotated[int, typer.Option("--seed", help="Random seed for folds and initial weights.")]

DAYS_PER_YEAR = 365.25


@app.command("fit")
def fit(
    table: TableFile,
    time: TimeColumn,
    event: EventColumn,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder: model and report.", show_default=False)],
    numeric: Numeric = "",
    categorical: Categorical = "",
    model: Annotated[
        str, typer.Option("--model", "-m", help="cox, deepsurv, discrete, deephit, red_snn or bhambhvani.")
    ] = "cox",
    setting: Setting = None,
    imputation: Imputation = "median",
    modality: Annotated[
        list[str] | None,
        typer.Option(
            "--modality",
            help="NAME=COLUMN,COLUMN: fit a model for each combination of modalities, for incomplete records; "
            "mark a categorical column as COLUMN:names.",
            show_default=False,
        ),
    ] = None,
    per: Annotated[
        list[str] | None,
        typer.Option("--per", help="Unit of a hazard ratio, COLUMN=STEP, such as age=10.", show_default=False),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Fit one model on all patients of a table and write the model and a report."""
    from pathology.survival.covariates import read_outcome_columns
    from pathology.survival.modalities import ModalityModels, ModalitySettings
    from pathology.survival.models.base import fit_model
    from pathology.survival.models.registry import make_model

    frame = _read_table(table)
    outcome, rows = read_outcome_columns(frame, time, event)
    patients = frame.iloc[rows].reset_index(drop=True)
    values = _pairs(setting, "--set")
    facts = {
        "outcome": _outcome_name(event),
        "time_column": time,
        "event_column": event,
        "time_unit": "days",
        "last_time": float(outcome.time.max()),
        "table": table.name,
    }
    if modality:
        settings = ModalitySettings(
            modalities={
                name: _modality(columns, imputation) for name, columns in _pairs(modality, "--modality").items()
            }
        )
        models = ModalityModels.fit(
            patients, outcome, settings, lambda: make_model(model, **_typed(model, values)), seed=seed, facts=facts
        )
        models.save(out)
        for combination, fitted in models.models.items():
            typer.echo(
                f"{' + '.join(combination)}: {fitted.facts['patients']} patients, {fitted.facts['events']} events"
            )
        for combination, why in models.not_fitted.items():
            typer.echo(f"{' + '.join(combination)}: no model ({why})")
        typer.echo(f"{out}: {len(models.models)} {model} models. Research use only.")
        return
    fitted = fit_model(
        patients,
        outcome,
        _covariates(numeric, categorical, imputation),
        make_model(model, **_typed(model, values)),
        seed=seed,
        facts=facts,
    )
    fitted.save(out)
    steps = {k: float(v) for k, v in _pairs(per, "--per").items()}
    _fit_report(fitted, patients, outcome, out, title=f"{model}: {_outcome_name(event).upper()}", per=steps)
    typer.echo(f"{out}: {model} on {len(outcome)} patients with {outcome.events} events. Research use only.")


@app.command("evaluate")
def evaluate(
    table: TableFile,
    time: TimeColumn,
    event: EventColumn,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder: metrics, predictions and report.", show_default=False)
    ],
    numeric: Numeric = "",
    categorical: Categorical = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="KIND or KIND:NAME=VALUE,...; candidates of one kind are compared in the inner folds. "
            "Default: cox and deepsurv. Or one folder from 'pathology survival fit': that model, never refitted, on "
            "the patients of this table.",
            show_default=False,
        ),
    ] = None,
    imputation: Imputation = "median",
    years: Years = "1,3,5",
    outer: Annotated[int, typer.Option("--outer", min=2, help="Outer folds, for evaluation.")] = 5,
    inner: Annotated[int, typer.Option("--inner", min=2, help="Inner folds, for model selection.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Repeats of the outer cross-validation.")] = 1,
    patient: Annotated[
        str | None,
        typer.Option("--patient", help="Patient ID column, if patients have several rows.", show_default=False),
    ] = None,
    centre: Annotated[
        str | None,
        typer.Option("--centre", help="Centre column, for results by centre of a fitted model.", show_default=False),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Compare models by nested cross-validation, or measure a fitted model on other patients."""
    import json

    folders = [Path(m) for m in model or [] if Path(m).is_dir()]
    if folders:
        _evaluate_fitted(model or [], table, time, event, out, (numeric, categorical), years, patient, centre, seed)
        return
    if centre is not None:
        raise _usage("--centre is for a fitted model", "Pass --model with a folder from 'pathology survival fit'")

    from pathology.errors import InputTableError
    from pathology.reports.page import write_report
    from pathology.survival.covariates import read_outcome_columns
    from pathology.survival.crossvalidation import CrossValidationSettings, cross_validate, score_predictions
    from pathology.survival.report import comparison_sections

    frame = _read_table(table)
    outcome, rows = read_outcome_columns(frame, time, event)
    patients = frame.iloc[rows].reset_index(drop=True)
    if patient is not None and patient not in patients:
        raise InputTableError(f"missing column '{patient}'", where=table)
    owners = None if patient is None else [str(p) for p in patients[patient]]
    settings = CrossValidationSettings(outer=outer, inner=inner, repeats=repeats, seed=seed)
    result = cross_validate(
        patients,
        outcome,
        _covariates(numeric, categorical, imputation),
        _candidates(model or ["cox", "deepsurv"]),
        [y * DAYS_PER_YEAR for y in _numbers(years, "--years")],
        settings,
        patients=owners,
        progress=typer.echo,
    )
    scores = {name: score_predictions(result, name) for name in result.predictions}
    out.mkdir(parents=True, exist_ok=True)
    (out / "scores.json").write_text(
        json.dumps({name: s.model_dump(mode="json") for name, s in scores.items()}, indent=2) + "\n", encoding="utf-8"
    )
    _predictions_table(result).to_csv(out / "predictions.csv", index=False)
    name = _outcome_name(event).upper()
    write_report(
        out / "report.html",
        f"Survival models: {name}",
        f"{table.name}: {len(outcome)} of {len(frame)} patients with follow-up, {outcome.events} events.",
        comparison_sections(result, scores, out / "figures", outcome_name=name, unit=DAYS_PER_YEAR, units="years"),
    )
    for model_name, score in scores.items():
        typer.echo(f"{model_name}: C {score.harrell}; integrated Brier {score.integrated_brier}")
    typer.echo(f"{out / 'report.html'}. Research use only.")


@app.command("predict")
def predict(
    model: Annotated[Path, typer.Argument(help="Model folder from 'pathology survival fit'.", show_default=False)],
    table: TableFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output CSV file.", show_default=False)],
    years: Years = "1,3,5",
    patient: Annotated[
        str | None, typer.Option("--patient", help="Patient ID column to copy to the output.", show_default=False)
    ] = None,
) -> None:
    """Predict risk, risk group and survival for each row of a table, with the model used."""
    from pathology.errors import InputTableError
    from pathology.survival.modalities import ModalityModels
    from pathology.survival.models.registry import load_model

    frame = _read_table(table)
    at = [y * DAYS_PER_YEAR for y in _numbers(years, "--years")]
    if ModalityModels.is_folder(model):
        result = ModalityModels.load(model).predict(frame, at)
    else:
        fitted = load_model(model)
        result = fitted.predict(frame, at)
        result.insert(0, "ran_on", ", ".join(fitted.facts["covariates"]))
    result = result.rename(columns={f"survival_{t:g}": f"survival_{t / DAYS_PER_YEAR:g}_years" for t in at})
    if patient is not None:
        if patient not in frame:
            raise InputTableError(f"missing column '{patient}'", where=table)
        result.insert(0, patient, frame[patient])
    out.parent.mkdir(parents=True, exist_ok=True)
    result.to_csv(out, index=False)
    typer.echo(f"{out}: {len(result)} patients. Research use only.")


@app.command("plot")
def plot(
    table: TableFile,
    time: TimeColumn,
    event: EventColumn,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Output path without extension; writes .svg and .png.", show_default=False),
    ],
    by: Annotated[
        str | None, typer.Option("--by", help="Grouping column, one curve per level.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Model folder, to plot its risk groups.", show_default=False)
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="km, forest, nomogram or calibration; all but km require --model.")
    ] = "km",
    years: Years = "3,5",
    title: Annotated[str, typer.Option("--title", help="Figure title.")] = "",
) -> None:
    """Draw Kaplan-Meier curves, a forest plot, a nomogram or a calibration plot."""
    from pathology.errors import InputTableError, UsageError
    from pathology.reports.figures import save_picture
    from pathology.survival.covariates import read_outcome_columns
    from pathology.survival.metrics import survival_calibration_groups
    from pathology.survival.models.cox import hazard_ratios
    from pathology.survival.models.registry import load_model
    from pathology.survival.nomogram import make_nomogram
    from pathology.survival.plots import (
        draw_forest,
        draw_kaplan_meier,
        draw_survival_calibration,
        draw_survival_nomogram,
    )

    frame = _read_table(table)
    outcome, rows = read_outcome_columns(frame, time, event)
    patients = frame.iloc[rows].reset_index(drop=True)
    at = _numbers(years, "--years")
    name = _outcome_name(event).upper()
    if kind not in ("km", "forest", "nomogram", "calibration"):
        raise UsageError(f"unknown plot kind '{kind}'", remedy="Use km, forest, nomogram or calibration")
    if kind != "km" and model is None:
        raise UsageError(
            f"a {kind} plot requires a model", remedy="Pass --model with a folder from 'pathology survival fit'"
        )
    fitted = None if model is None else load_model(model)
    if kind == "km":
        groups, order = None, None
        if fitted is not None:
            groups = list(fitted.predict(patients, [DAYS_PER_YEAR])["risk_group"])
            order = fitted.groups.names
        elif by is not None:
            if by not in patients:
                raise InputTableError(f"missing column '{by}'", where=table)
            groups = ["unknown" if g != g or g in ("", None) else str(g) for g in patients[by]]
        figure = draw_kaplan_meier(outcome, groups, order=order, what=name, title=title)
    else:
        assert fitted is not None
        if kind == "forest":
            figure = draw_forest(
                hazard_ratios(fitted),
                title=title,
                n=f"{fitted.facts['patients']} patients, {fitted.facts['events']} events",
            )
        elif kind == "nomogram":
            figure = draw_survival_nomogram(
                make_nomogram(fitted, patients, {f"{y:g}-year": y * DAYS_PER_YEAR for y in at})
            )
        else:
            horizon = at[0] * DAYS_PER_YEAR
            survival = fitted.predict(patients, [horizon])[f"survival_{horizon:g}"]
            parts = survival_calibration_groups(outcome, survival, horizon, groups=min(5, max(2, outcome.events // 10)))
            figure = draw_survival_calibration({fitted.model.kind: parts}, horizon=f"{at[0]:g} years")
    svg, png = save_picture(figure, out)
    typer.echo(f"{svg}\n{png}\nResearch use only.")


def _usage(what: str, remedy: str) -> Exception:
    from pathology.errors import UsageError

    return UsageError(what, remedy=remedy)


def _evaluate_fitted(
    models: list[str],
    table: Path,
    time: str,
    event: str,
    out: Path,
    covariates: tuple[str, str],
    years: str,
    patient: str | None,
    centre: str | None,
    seed: int,
) -> None:
    """Measure one fitted model on the patients of a table and write the report."""
    from pathology.errors import InputTableError
    from pathology.evaluation.survival_cohort import (
        evaluate_survival,
        predict_cohort_survival,
        survival_checklist,
        survival_sections,
    )
    from pathology.reports.page import write_report
    from pathology.survival.covariates import read_outcome_columns
    from pathology.survival.models.base import outcome_digest
    from pathology.survival.models.registry import load_model

    if len(models) != 1 or any(covariates):
        raise _usage(
            "a fitted model is evaluated alone, with the covariates it was fitted with",
            "Pass one --model FOLDER, without --numeric and --categorical",
        )
    fitted = load_model(Path(models[0]))
    frame = _read_table(table)
    outcome, rows = read_outcome_columns(frame, time, event)
    people = frame.iloc[rows].reset_index(drop=True)
    for column in (patient, centre):
        if column is not None and column not in people:
            raise InputTableError(f"missing column '{column}'", where=table)
    settings = fitted.preparation.settings
    found = predict_cohort_survival(
        fitted,
        people,
        outcome,
        [y * DAYS_PER_YEAR for y in _numbers(years, "--years")],
        patients=[str(p) for p in (people.index if patient is None else people[patient])],
        centres=() if centre is None else ["unknown" if c != c else str(c) for c in people[centre]],
    )
    out.mkdir(parents=True, exist_ok=True)
    evaluation = evaluate_survival(found, seed=seed)
    (out / "evaluation.json").write_text(evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")
    missing = {c: int(people[c].isna().sum()) for c in (*settings.numeric, *settings.categorical) if c in people}
    warnings = [f"{c} is missing for {n} of {len(people)} patients and was imputed." for c, n in missing.items() if n]
    facts = fitted.facts
    if facts.get("outcome_sha256") == outcome_digest(outcome):
        warnings.insert(0, "The model was fitted on these patients: the metrics are apparent and optimistic.")
    name = str(facts.get("outcome", _outcome_name(event))).upper()
    own = {}
    if "apparent_concordance" in facts:
        own["Harrell's C"] = f"{facts['apparent_concordance']:.3f}, apparent, {facts['patients']} training patients"
    write_report(
        out / "report.html",
        f"{fitted.model.kind} on another cohort: {name}",
        f"{table.name}: {evaluation.patients} of {len(frame)} patients with follow-up, {evaluation.events} events.",
        [
            *survival_sections(
                evaluation, found, out / "figures", own=own, outcome_name=name, unit=DAYS_PER_YEAR, units="years"
            ),
            survival_checklist(evaluation, fitted, rows=len(frame), missing=missing, horizons=f"{years} years"),
        ],
        warnings=warnings,
    )
    for line in warnings:
        typer.echo(line, err=True)
    typer.echo(f"C {evaluation.concordance}\n{out / 'report.html'}. Research use only.")


def _fit_report(
    fitted: FittedModel,
    patients: pd.DataFrame,
    outcome: Outcome,
    out: Path,
    *,
    title: str,
    per: dict[str, float],
) -> None:
    from pathology.reports.page import Cell, Section, Table, picture, write_report
    from pathology.survival.metrics import harrell_c
    from pathology.survival.models.cox import CoxModel, hazard_ratios, likelihood_ratio_test
    from pathology.survival.nomogram import make_nomogram
    from pathology.survival.plots import draw_forest, draw_kaplan_meier, draw_survival_nomogram

    predicted = fitted.predict(patients, [DAYS_PER_YEAR])
    n = f"{len(outcome)} patients, {outcome.events} events"
    sections = []
    if isinstance(fitted.model, CoxModel):
        ratios = hazard_ratios(fitted, per=per)
        table = Table(
            head=("Covariate", "Contrast", "Hazard ratio", "p"),
            rows=tuple(
                (
                    Cell(value=r.name),
                    Cell(value=r.unit),
                    Cell(value=f"{r.ratio:.2f}", ci=f"{r.low:.2f}–{r.high:.2f}"),
                    Cell(value="< 0.001" if r.p < 0.001 else f"{r.p:.3f}"),
                )
                for r in ratios
            ),
        )
        note = "Intervals and p values are not valid for penalised models." if fitted.model.settings.penalty else ""
        if not note:
            test = likelihood_ratio_test(fitted.model, None, outcome)
            p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
            note = (
                f"Likelihood-ratio test of all covariates: chi-squared {test.statistic:.1f} on "
                f"{test.degrees_of_freedom} degrees of freedom, {p}."
            )
        nomogram = make_nomogram(fitted, patients, {"3-year": 3 * DAYS_PER_YEAR, "5-year": 5 * DAYS_PER_YEAR})
        sections += [
            Section(
                heading="Hazard ratios",
                table=table,
                pictures=(
                    picture(draw_forest(ratios, n=n), out / "figures" / "forest", "Hazard ratios, 95 % intervals"),
                ),
                note=note,
            ),
            Section(
                heading="Nomogram",
                text="Read off the points of each covariate, add them up, and read off survival below the total.",
                pictures=(
                    picture(draw_survival_nomogram(nomogram), out / "figures" / "nomogram", "Nomogram of the model"),
                ),
            ),
        ]
    sections.append(
        Section(
            heading="Risk groups",
            text=f"Apparent Harrell's C (training patients): {harrell_c(outcome, predicted['risk']):.3f}.",
            pictures=(
                picture(
                    draw_kaplan_meier(outcome, list(predicted["risk_group"]), order=fitted.groups.names),
                    out / "figures" / "risk-groups",
                    "Kaplan-Meier curves by risk group, training patients",
                ),
            ),
        )
    )
    dropped = [f"{c} was excluded: {why}" for c, why in fitted.preparation.dropped.items()]
    write_report(
        out / "report.html",
        title,
        f"{fitted.facts['table']}: {n}.",
        sections,
        warnings=[
            "All results on this page are apparent performance on the training patients and are optimistic. "
            "Use 'pathology survival evaluate' for cross-validated results.",
            *dropped,
        ],
    )


def _predictions_table(result: CrossValidation) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "model": name,
            "repeat": p.fold.repeat,
            "fold": p.fold.index,
            "row": int(row),
            "time": result.outcome.time[row],
            "event": int(result.outcome.event[row]),
            "risk": p.risk[i],
            "risk_group": p.groups[i],
            **{f"survival_{t / DAYS_PER_YEAR:g}_years": p.survival[i, j] for j, t in enumerate(result.times)},
        }
        for name, folds in result.predictions.items()
        for p in folds
        for i, row in enumerate(p.fold.test)
    )


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    from pathology.errors import InputTableError
    from pathology.input_files import reading, require_regular

    require_regular(path, InputTableError)
    remedy = "Use a CSV, TSV, XLSX or Parquet file"
    with reading(path, InputTableError, what="the table cannot be read", remedy=remedy):
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        if path.suffix.lower() in (".xlsx", ".xls"):
            return pd.read_excel(path)
        return pd.read_csv(path, sep="\t" if path.suffix.lower() in (".tsv", ".txt") else ",")


def _covariates(numeric: str, categorical: str, imputation: str) -> CovariateSettings:
    from pathology.errors import UsageError
    from pathology.survival.covariates import CovariateSettings

    try:
        return CovariateSettings(
            numeric=tuple(_names(numeric)),
            categorical=tuple(_names(categorical)),
            imputation=imputation,
        )
    except ValueError as error:
        raise UsageError(_first(error), remedy="Name columns with --numeric and --categorical") from error


def _modality(columns: str, imputation: str) -> CovariateSettings:
    named = _names(columns)
    categorical = [c.removesuffix(":names") for c in named if c.endswith(":names")]
    return _covariates(",".join(c for c in named if not c.endswith(":names")), ",".join(categorical), imputation)


def _candidates(models: list[str]) -> dict[str, list[Candidate]]:
    from pathology.survival.crossvalidation import Candidate

    found: dict[str, list[Candidate]] = {}
    for text in models:
        kind, _, settings = text.partition(":")
        values = _pairs(settings.split(",") if settings else None, "--model")
        found.setdefault(kind, []).append(Candidate(kind=kind, settings=_typed(kind, values)))
    return found


def _typed(kind: str, values: dict[str, str]) -> dict[str, Any]:
    """Validate settings; an unknown name or invalid value is a usage error."""
    from pathology.errors import UsageError
    from pathology.survival.models.registry import make_model, model_kinds

    kinds = model_kinds()
    if kind not in kinds:
        make_model(kind)
    fields = kinds[kind].settings_type.model_fields
    # Layer widths are written 32x16.
    typed: dict[str, Any] = {
        k: tuple(v.split("x")) if k in fields and get_origin(fields[k].annotation) is tuple else v
        for k, v in values.items()
    }
    try:
        kinds[kind].settings_type(**typed)
    except ValueError as error:
        raise UsageError(_first(error), remedy=f"See the settings of '{kind}' in the documentation") from error
    return typed


def _first(error: ValueError) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        return f"{place}: {problem['msg']}" if place else str(problem["msg"])
    return str(error)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str, option: str) -> list[float]:
    from pathology.errors import UsageError

    try:
        values = sorted({float(part) for part in _names(text)})
    except ValueError:
        values = []
    if not values or values[0] <= 0:
        raise UsageError(f"{option}: expected positive numbers separated by commas, got '{text}'")
    return values


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    from pathology.errors import UsageError

    found = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"{option}: expected NAME=VALUE, got '{text}'")
        found[name.strip()] = value.strip()
    return found


def _outcome_name(event: str) -> str:
    """Return ``os`` for ``OS``, ``clinical.os_event`` or ``os_event``."""
    return event.split(".")[-1].removesuffix("_event").lower()
