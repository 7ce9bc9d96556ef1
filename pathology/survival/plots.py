"""Survival plots: Kaplan-Meier curves, forest plots, nomograms, calibration and decision curves.

Colours are the colour-blind-safe palette of Okabe and Ito (2008); curves also differ in their
dashes, for black-and-white prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from pathology.errors import UsageError
from pathology.reports.figures import FIGURE_STYLE
from pathology.survival.metrics import SurvivalCalibrationGroup, SurvivalDecisionCurve, log_rank
from pathology.survival.models.cox import HazardRatio
from pathology.survival.nomogram import SurvivalNomogram
from pathology.survival.nonparametric import kaplan_meier, numbers_at_risk
from pathology.survival.outcome import Outcome

__all__ = [
    "COLOURS",
    "draw_forest",
    "draw_kaplan_meier",
    "draw_scores",
    "draw_survival_calibration",
    "draw_survival_decision_curve",
    "draw_survival_nomogram",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's: blue, vermilion, green, purple, orange, sky blue, black."""
_DASHES: tuple[Any, ...] = ("solid", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (9, 3)), "solid")
DAYS_PER_YEAR = 365.25


def draw_kaplan_meier(
    outcome: Outcome,
    groups: Sequence[str] | None = None,
    *,
    order: Sequence[str] | None = None,
    what: str = "Survival",
    years: bool = True,
    intervals: bool = True,
    title: str = "",
) -> Figure:
    """Draw Kaplan-Meier curves with numbers at risk and the log-rank test.

    Parameters
    ----------
    outcome
        Follow-up of N patients, in days if ``years``.
    groups
        Group of each patient; ``None``: a single curve.
    order
        Order of the groups; ``None``: by name.
    what
        Y axis label.
    years
        Show time in years.
    intervals
        Shade the pointwise 95 % intervals.
    title
        Figure title.
    """
    member = np.asarray(["all patients"] * len(outcome) if groups is None else [str(g) for g in groups])
    if member.shape != outcome.time.shape:
        raise UsageError(f"expected one group per patient, got {len(member)} groups for {len(outcome)} patients")
    names = [str(g) for g in (order or sorted(set(member))) if str(g) in set(member)]
    if len(names) > len(COLOURS):
        raise UsageError(
            f"{len(names)} curves are too many for one figure", remedy=f"Merge groups to {len(COLOURS)} or fewer"
        )
    unit = DAYS_PER_YEAR if years else 1.0
    last = float(outcome.time.max()) / unit
    with mpl.rc_context(FIGURE_STYLE):
        head = 0.25 + 0.2 * np.ceil(len(names) / 3) + (0.25 if title else 0.0)
        height = 3.4 + head + 0.24 * (len(names) + 1)
        figure = Figure(figsize=(6.8, height))
        axes = figure.add_axes((0.17, (0.62 + 0.24 * (len(names) + 1)) / height, 0.79, 2.75 / height))
        for i, name in enumerate(names):
            part = outcome.take(np.flatnonzero(member == name))
            curve = kaplan_meier(part)
            x = np.concatenate([[0.0], curve.times]) / unit
            y = np.concatenate([[1.0], curve.survival])
            colour, dash = COLOURS[i % len(COLOURS)], _DASHES[i % len(_DASHES)]
            label = f"{name} ({part.events}/{len(part)})"
            axes.step(x, y, where="post", color=colour, linestyle=dash, linewidth=1.8, label=label)
            if intervals:
                low, high = np.concatenate([[1.0], curve.low]), np.concatenate([[1.0], curve.high])
                axes.fill_between(x, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
            censored = part.time[~part.event]
            axes.plot(censored / unit, curve.at(censored), "|", color=colour, markersize=5, markeredgewidth=0.8)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(0, last * 1.02)
        axes.set_ylabel(what)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        ticks = _time_ticks(last)
        axes.set_xticks(ticks)
        axes.set_xlabel("Years" if years else "Time")
        if groups is not None:
            # Above the axes, so that no curve overlaps it.
            heading = f"events / patients; log-rank {_p(log_rank(outcome, member).p)}" if len(names) > 1 else None
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(len(names), 3), title=heading, title_fontsize=9,
                alignment="left", borderaxespad=0.2, columnspacing=1.4,
            )  # fmt: skip
        _risk_table(axes, outcome, member, names, ticks, unit)
        if title:
            figure.text(0.17, 0.99, title, ha="left", va="top", fontsize=11, fontweight="bold")
    return figure


def draw_forest(ratios: Sequence[HazardRatio], *, title: str = "", n: str = "") -> Figure:
    """Draw a forest plot: hazard ratios with confidence intervals on a logarithmic scale.

    Parameters
    ----------
    ratios
        From :func:`pathology.survival.models.cox.hazard_ratios`.
    title
        Figure title.
    n
        Number of patients and events, as text.
    """
    if not ratios:
        raise UsageError("no hazard ratios to draw")
    with mpl.rc_context(FIGURE_STYLE):
        rows = len(ratios)
        figure = Figure(figsize=(8.4, 0.9 + 0.36 * rows))
        axes = figure.add_axes((0.46, 0.62 / (0.9 + 0.36 * rows), 0.29, 0.36 * rows / (0.9 + 0.36 * rows)))
        low = max(min(min(r.low for r in ratios), 0.5), 0.01)
        high = min(max(max(r.high for r in ratios), 2.0), 100)
        axes.set_xscale("log")
        axes.set_xlim(low / 1.15, high * 1.15)
        axes.axvline(1, color="#777777", linewidth=0.8)
        for i, r in enumerate(ratios):
            y = rows - 1 - i
            if i % 2 == 0:
                axes.axhspan(y - 0.5, y + 0.5, color="#f3f4f5", zorder=0, linewidth=0)
            axes.plot([max(r.low, low / 1.15), min(r.high, high * 1.15)], [y, y], color=COLOURS[0], linewidth=1.6)
            axes.plot([r.ratio], [y], "s", color=COLOURS[0], markersize=6)
            # Intervals that exceed the axis end in an arrowhead.
            for end, edge, mark in ((r.low, low / 1.15, "<"), (r.high, high * 1.15, ">")):
                if (mark == "<" and end < edge) or (mark == ">" and end > edge):
                    axes.plot([edge], [y], mark, color=COLOURS[0], markersize=5, clip_on=False)
            label: dict[str, Any] = {
                "transform": axes.get_yaxis_transform(),
                "va": "center",
                "fontsize": 9,
                "clip_on": False,
            }
            axes.text(-1.56, y, _short(r.name, 34), ha="left", **label)
            axes.text(-0.03, y, _short(r.unit, 28), ha="right", color="#555555", **label)
            axes.text(1.04, y, f"{r.ratio:.2f} ({r.low:.2f}–{r.high:.2f})", ha="left", **label)
            axes.text(1.80, y, _p(r.p).removeprefix("p ").removeprefix("= "), ha="right", **label)
        head: dict[str, Any] = {
            "transform": axes.get_yaxis_transform(),
            "va": "bottom",
            "fontsize": 9,
            "fontweight": "bold",
        }
        axes.text(1.04, rows - 0.45, "HR (95 % CI)", ha="left", **head)
        axes.text(1.80, rows - 0.45, "p", ha="right", **head)
        axes.text(-1.56, rows - 0.45, title or "Covariate", ha="left", **head)
        axes.set_ylim(-0.5, rows - 0.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(
            FixedLocator([v for v in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100) if low / 1.15 <= v <= high * 1.15])
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.set_xlabel("Hazard ratio" + (f"; {n}" if n else ""))
    return figure


def draw_survival_nomogram(nomogram: SurvivalNomogram, *, what: str = "survival") -> Figure:
    """Draw a nomogram: points on top, then covariates, total points and survival.

    Parameters
    ----------
    nomogram
        From :func:`pathology.survival.nomogram.make_nomogram`.
    what
        Label of the survival axes, after the time.
    """
    with mpl.rc_context(FIGURE_STYLE):
        top = sum(max(a.points) for a in nomogram.axes)
        rows = 1 + len(nomogram.axes) + 1 + len(nomogram.survival)
        figure = Figure(figsize=(8.2, 0.66 * rows + 0.2))
        axes = figure.add_axes((0.21, 0.02, 0.76, 0.96))
        axes.set_xlim(-2, 102)
        axes.set_ylim(-0.6, rows - 0.4)
        axes.axis("off")
        total_top = float(np.ceil(top / 50) * 50)

        def line(
            row: int, name: str, at: npt.NDArray[np.float64], labels: Sequence[str], span: tuple[float, float]
        ) -> None:
            y = rows - 1 - row
            axes.plot(span, [y, y], color="black", linewidth=1)
            axes.text(-4, y, _short(name, 26), ha="right", va="center", fontsize=9.5)
            for j, place in enumerate(_spread(at, labels)):
                axes.plot([at[j], at[j]], [y, y + 0.10], color="black", linewidth=1)
                # Labels that would overlap alternate above and below the line.
                axes.text(
                    at[j], y + (0.15, -0.08, -0.29, 0.36, -0.5)[place], labels[j], ha="center",
                    va="bottom" if place in (0, 3) else "top", fontsize=8,
                )  # fmt: skip

        line(0, "Points", np.arange(0, 101, 10.0), [f"{v}" for v in range(0, 101, 10)], (0, 100))
        for i, axis in enumerate(nomogram.axes):
            at = np.asarray(axis.points)
            order = np.argsort(at, kind="stable")
            line(i + 1, axis.column, at[order], [axis.marks[k] for k in order], (float(at.min()), float(at.max())))
        total = np.arange(0, total_top + 1, 50 if total_top <= 600 else 100)
        line(len(nomogram.axes) + 1, "Total points", total / total_top * 100, [f"{v:g}" for v in total], (0, 100))
        for k, (time, pairs) in enumerate(nomogram.survival.items()):
            points, chance = np.array(pairs).T
            wanted = np.array([0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01])
            shown = wanted[(wanted <= chance.max()) & (wanted >= chance.min())]
            where = np.interp(-shown, -chance, points) / total_top * 100
            span = (float(where.min()), float(where.max())) if where.size else (0.0, 0.0)
            line(len(nomogram.axes) + 2 + k, f"{time} {what}", where, [f"{v:g}" for v in shown], span)
    return figure


def draw_survival_calibration(groups: Mapping[str, Sequence[SurvivalCalibrationGroup]], *, horizon: str) -> Figure:
    """Draw a calibration plot: observed against predicted survival by group.

    Parameters
    ----------
    groups
        From :func:`pathology.survival.metrics.survival_calibration_groups`, by model.
    horizon
        Horizon as text.
    """
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(4.6, 4.4))
        axes = figure.add_axes((0.15, 0.13, 0.81, 0.83))
        axes.plot([0, 1], [0, 1], color="#777777", linewidth=0.8)
        for i, (name, parts) in enumerate(groups.items()):
            x = [g.predicted for g in parts]
            y = np.array([g.observed.value for g in parts])
            low, high = np.array([g.observed.low for g in parts]), np.array([g.observed.high for g in parts])
            axes.errorbar(
                x, y, yerr=np.clip([y - low, high - y], 0, None), fmt="os^Dv<>"[i % 7], color=COLOURS[i % len(COLOURS)],
                linestyle=_DASHES[i % len(_DASHES)], linewidth=1.4, markersize=5, capsize=2, elinewidth=0.9, label=name,
            )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel(f"Predicted event-free probability at {horizon}")
        axes.set_ylabel("Observed event-free probability (Kaplan-Meier)")
        axes.legend(loc="upper left")
    return figure


def draw_survival_decision_curve(curves: Mapping[str, SurvivalDecisionCurve], *, horizon: str) -> Figure:
    """Draw decision curves: net benefit against threshold probability.

    Parameters
    ----------
    curves
        From :func:`pathology.survival.metrics.survival_decision_curve`, by model, on the same patients.
    horizon
        Horizon as text.
    """
    if not curves:
        raise UsageError("no decision curves to draw")
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(6.2, 3.8))
        axes = figure.add_axes((0.13, 0.15, 0.83, 0.80))
        first = next(iter(curves.values()))
        axes.plot(first.thresholds, first.treat_all, color="#777777", linewidth=1.1, label="treat all")
        axes.plot(first.thresholds, first.treat_none, color="black", linewidth=1.1, label="treat none")
        for i, (name, curve) in enumerate(curves.items()):
            axes.plot(
                curve.thresholds, curve.model, color=COLOURS[i % len(COLOURS)], linestyle=_DASHES[i % len(_DASHES)],
                linewidth=1.6, label=name,
            )  # fmt: skip
        best = max(max(c.model) for c in curves.values())
        axes.set_ylim(-0.05, max(best, first.treat_all[0]) * 1.1 + 0.01)
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"Threshold probability of the event by {horizon}")
        axes.set_ylabel("Net benefit")
        axes.legend(loc="upper right")
    return figure


def draw_scores(
    rows: Mapping[str, Mapping[str, tuple[float, float, float]]], *, what: str, reference: float | None = None
) -> Figure:
    """Draw one metric of several models with intervals, side by side for several outcomes.

    Parameters
    ----------
    rows
        Value, low and high by outcome and by model.
    what
        X axis label.
    reference
        Value of an uninformative model, drawn as a line.
    """
    outcomes = list(rows)
    models = list(rows[outcomes[0]])
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(2.0 + 2.5 * len(outcomes), 0.8 + 0.34 * len(models)), layout="constrained")
        panels = figure.subplots(1, len(outcomes), sharey=True, sharex=True, squeeze=False)[0]
        for panel, outcome in zip(panels, outcomes, strict=True):
            for i, model in enumerate(models):
                value, low, high = rows[outcome][model]
                y = len(models) - 1 - i
                panel.plot([low, high], [y, y], color=COLOURS[0], linewidth=1.6)
                panel.plot([value], [y], "s", color=COLOURS[0], markersize=6)
            if reference is not None:
                panel.axvline(reference, color="#777777", linewidth=0.8)
            panel.set_title(outcome, loc="left", fontsize=10)
            panel.set_yticks(range(len(models)), models[::-1])
            panel.set_ylim(-0.6, len(models) - 0.4)
            panel.set_xlabel(what)
            panel.grid(axis="x", color="#e3e3e3", linewidth=0.6)
            panel.set_axisbelow(True)
    return figure


def _risk_table(
    axes: Any,  # noqa: ANN401  (matplotlib has no types)
    outcome: Outcome,
    member: npt.NDArray[np.str_],
    names: Sequence[str],
    ticks: npt.NDArray[np.float64],
    unit: float,
) -> None:
    label: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "fontsize": 8.5, "va": "center", "clip_on": False}
    # Rows are 0.24 inches apart below axes 2.75 inches high.
    step = 0.24 / 2.75
    axes.text(0, -0.235, "At risk", ha="left", fontweight="bold", **label)
    for i, name in enumerate(names):
        part = outcome.take(np.flatnonzero(member == name))
        y = -0.235 - step * (i + 1)
        counts = numbers_at_risk(part, ticks * unit)
        axes.text(-0.04, y, _short(name, 14), ha="right", color=COLOURS[i % len(COLOURS)], transform=axes.transAxes,
                  fontsize=8.5, va="center", clip_on=False)  # fmt: skip
        for tick, count in zip(ticks, counts, strict=True):
            axes.text(tick, y, str(count), ha="center", **label)


def _time_ticks(last: float) -> npt.NDArray[np.float64]:
    raw = last / 8
    power = 10 ** np.floor(np.log10(raw)) if raw > 0 else 1.0
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    return np.asarray(np.arange(0, last * 1.0001, step), dtype=float)


def _spread(at: npt.NDArray[np.float64], labels: Sequence[str]) -> list[int]:
    """First of five positions (above, below, further below, further above, last below) with room for a label."""
    ends = [-np.inf] * 5
    sides = []
    for place, label in zip(at, labels, strict=True):
        half = 0.55 * len(label) + 0.4
        side = next((k for k, end in enumerate(ends) if place - half > end), 4)
        ends[side] = place + half
        sides.append(side)
    return sides


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
