"""Which extras each command needs: checked before the command does anything, and told in one line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from typer.core import TyperGroup

from pathology.extras import extra_of, missing_extra, require_extras

__all__ = ["NEEDS", "CheckedGroup", "commands_of"]

Options = Mapping[str, Any]

_EXPORTS = {
    "dicom-tissue": "interop",
    "dicom-regions": "interop",
    "dicom-probabilities": "interop",
    "dicom-report": "interop",
    "pdf": "interop",
    "batch-pdf": "interop",
    "excel": "interop",
}


def _always(*extras: str) -> Callable[[Options], Sequence[str]]:
    return lambda _options: extras


def _model(options: Options) -> Sequence[str]:
    """A model of TIAToolbox's zoo needs that library; a GPU or torch's engine needs torch, which it brings."""
    if str(options.get("model")).startswith("tiatoolbox:"):
        return ("tiatoolbox",)
    torch = options.get("engine") == "torch" or str(options.get("device")).startswith("cuda")
    return ("torch",) if torch else ()


def _score(options: Options) -> Sequence[str]:
    return (*_model(options), *(("cluster",) if options.get("slurm") else ()))


def _export(options: Options) -> Sequence[str]:
    return sorted({_EXPORTS[name] for name in options.get("formats", ()) if name in _EXPORTS})


def _encoder(name: str) -> bool:
    """Whether timm builds an encoder; torchvision's and the bodies of bundles need torch alone."""
    from pathology.encoders.published import find_published

    published = find_published(name)
    return name.lower().startswith("timm:") or (published is not None and published.library == "timm")


def _features(options: Options) -> Sequence[str]:
    needed = options.get("layout") in ("trident", "stamp") or any(map(_encoder, options.get("encoders", ())))
    return ("encoders",) if needed else ("torch",)


def _encoders_add(options: Options) -> Sequence[str]:
    return ("encoders",) if options.get("source") is None or _encoder(str(options.get("name"))) else ("torch",)


def _import(options: Options) -> Sequence[str]:
    # Weights alone are compared with the network that their card names, which torch builds.
    return ("torch",) if options.get("card") is not None else ()


def _segment(options: Options) -> Sequence[str]:
    # A DICOM folder is answered with a DICOM SEG.
    folders = any(Path(path).is_dir() for image in options.get("images", ()) if (path := str(image).partition("=")[2]))
    return ("radiology", "interop") if folders else ("radiology",)


def _survival(options: Options) -> Sequence[str]:
    table = str(options.get("table", "")).lower()
    return ("survival", "interop") if table.endswith((".xlsx", ".xls")) else ("survival",)


def _patient(options: Options) -> Sequence[str]:
    workbook = str(options.get("clinical") or "").lower().endswith((".xlsx", ".xls"))
    return (*(("survival",) if options.get("survival") else ()), *(("interop",) if workbook else ()))


NEEDS: Mapping[str, Callable[[Options], Sequence[str]]] = {
    "score": _score,
    "heatmap": _model,
    "export": _export,
    "features": _features,
    "train": _always("training"),
    "train-subtypes": _always("training"),
    "evaluate": lambda options: ("training", *(extra for extra in _model(options) if extra != "torch")),
    "models convert": _always("torch"),
    "models import": _import,
    "models quantise": _always("quantise"),
    "encoders add": _encoders_add,
    "cohort list": _always("cohorts"),
    "cohort show": _always("cohorts"),
    "cohort fetch": _always("cohorts"),
    "survival fit": _survival,
    "survival evaluate": _survival,
    "survival predict": _survival,
    "survival plot": _survival,
    "methylation predict": _always("omics"),
    "methylation transfer": _always("omics"),
    "patient build": _patient,
    "radiology info": _always("radiology"),
    "radiology register": _always("radiology"),
    "radiology adc": _always("radiology"),
    "radiology segment": _segment,
    "radiology features": _always("radiology", "radiomics"),
    "radiology evaluate": _always("radiology"),
    "radiology train": _always("radiology"),
    "radiology predict": _always("radiology"),
}
"""Extras that a command needs with the options given.  Commands that are not here work in the base installation."""


class CheckedGroup(TyperGroup):
    """The root of the command line; checks the extras of a command, at any depth, when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for path, command in commands_of(self):
            if command.callback is not None:
                command.callback = _checked(path, command.callback)


def commands_of(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group with its path, such as ``"radiology train"``."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def _checked(path: str, callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*given: Any, **options: Any) -> Any:  # noqa: ANN401 - as the command declares
        what = f"pathology {path.replace('-subtypes', ' subtypes')}"
        context = click.get_current_context()
        require_extras(*NEEDS.get(path, _always())(_all_options(context, options)), what=what)
        try:
            return callback(*given, **options)
        except ModuleNotFoundError as error:
            extra = extra_of(error.name or "")
            if extra is None:
                raise
            raise missing_extra(f"{what} needs {error.name} here", extra) from error

    return run


def _all_options(context: click.Context, options: Options) -> Options:
    """Add the fields of a settings model, which :class:`SettingsCommand` keeps in the context."""
    from pathology.cli.settings_options import SettingsCommand

    kept = context.meta.get(SettingsCommand.__module__, {}) if isinstance(context.command, SettingsCommand) else {}
    return {**kept, **options}
