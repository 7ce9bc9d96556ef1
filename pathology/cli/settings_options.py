"""Commands whose options are the fields of a settings model, with the fields' docstrings as help texts.

A field is defined once, in the model, and filled from the command line, Python or a YAML file.  The model is imported
only when such a command runs or shows its help, so that ``pathology --help`` stays fast.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pathology.settings import Record

__all__ = ["Config", "SettingsCommand", "given_settings", "option_names", "settings_command"]

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML file with any of these settings, such as config.yaml of an earlier run. Options override it.",
        show_default=False,
    ),
]


class SettingsCommand(TyperCommand):
    """A command that adds the options of a settings model to those of its function."""

    load: ClassVar[Callable[[], type[Record]]]
    arguments: ClassVar[Sequence[str]]
    named: ClassVar[Mapping[str, str]]

    @cached_property
    def from_model(self) -> list[click.Parameter]:
        """Arguments and options of the model's fields."""
        return list(_parameters(type(self).load(), self.arguments, self.named))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the arguments, the model's options and the function's own options."""
        arguments = [p for p in self.from_model if isinstance(p, click.Argument)]
        return [*arguments, *(p for p in self.from_model if p not in arguments), *super().get_params(ctx)]

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click declares it
        """Remove the model's values from the function's arguments; :func:`given_settings` returns them."""
        given: dict[str, Any] = {}
        for parameter in self.from_model:
            value = ctx.params.pop(str(parameter.name))
            if value is None or value == ():
                continue
            *parents, last = str(parameter.name).split("__")
            place = given
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = list(value) if isinstance(value, tuple) else value
        ctx.meta[__name__] = given
        return super().invoke(ctx)


def settings_command(
    load: Callable[[], type[Record]], *, arguments: Sequence[str] = (), named: Mapping[str, str] | None = None
) -> type[SettingsCommand]:
    """Return a command class, for typer's ``cls``, with the options of a settings model.

    Parameters
    ----------
    load
        Imports and returns the model.  Fields that are numbers, texts, paths, yes or no, or several of these become
        options; mappings and further models are for YAML files, unless ``named`` says how they are given.
    arguments
        Fields that are arguments, in their order.
    named
        Declarations of options that are not just the field's name: ``{"model": "--model/-m"}``.  A field of an
        inner model (``region.classes``) has an option if it is here, and an inner model is switched on and off by
        one of its own.
    """
    return type("Command", (SettingsCommand,), {"load": load, "arguments": tuple(arguments), "named": named or {}})


def given_settings(context: typer.Context) -> dict[str, Any]:
    """Return the model's fields that were given on the command line, and no others."""
    given: dict[str, Any] = context.meta[__name__]
    return given


def option_names(context: typer.Context) -> dict[str, str]:
    """Return the option of each setting, for messages."""
    command = context.command
    assert isinstance(command, SettingsCommand)
    return {
        str(parameter.name).replace("__", "."): parameter.opts[0]
        if isinstance(parameter, click.Option)
        else str(parameter.name).upper()
        for parameter in command.from_model
    }


def _parameters(
    model: type[Record], arguments: Sequence[str], named: Mapping[str, str], above: str = ""
) -> list[click.Parameter]:
    found: list[click.Parameter] = []
    for name, field in model.model_fields.items():
        key = f"{above}{name}"
        kind = _kind(field.annotation)
        if name in arguments and not above:
            several = get_origin(kind) is tuple
            found.append(
                TyperArgument(
                    param_decls=[name],
                    type=str,
                    required=False,
                    nargs=-1 if several else 1,
                    metavar=f"[{name.upper()}]{'...' if several else ''}",
                    help=_help(field),
                )
            )
        elif kind is dict or get_origin(kind) is dict:
            continue
        elif hasattr(kind, "model_fields") and key not in named:
            found += _parameters(kind, arguments, named, f"{key}.")
        elif key in named or not above:
            found.append(_option(key, kind, field, named.get(key)))
    found.sort(key=lambda p: arguments.index(str(p.name)) if isinstance(p, click.Argument) else len(arguments))
    return found


def _option(key: str, kind: Any, field: FieldInfo, declared: str | None) -> TyperOption:  # noqa: ANN401
    name = f"--{key.replace('_', '-')}"
    flag = kind is bool or hasattr(kind, "model_fields")
    declarations = declared.split() if declared else [f"{name}/--no-{name[2:]}" if flag else name]
    several = get_origin(kind) is tuple
    item = get_args(kind)[0] if several else kind
    choices = [str(choice) for choice in get_args(item)] if get_origin(item) is Literal else []
    return TyperOption(
        param_decls=[key.replace(".", "__"), *declarations],
        type=None if flag else {int: click.INT, float: click.FLOAT}.get(item, click.STRING),
        is_flag=flag or None,
        multiple=several,
        default=None,
        metavar="|".join(choices) or ("PATH" if item is Path else None),
        help=_help(field) + _default(field, declarations[0]),
    )


def _default(field: FieldInfo, declared: str) -> str:
    """Return the default as text, unless the docstring states it."""
    if field.is_required() or field.default in (None, False, "", ()) or isinstance(field.default, tuple):
        return ""
    value = declared.partition("/")[0].removeprefix("--") if field.default is True else field.default
    return f" By default: {value}."


def _kind(annotation: Any) -> Any:  # noqa: ANN401 - a type expression
    """Return the type of a field without ``None`` and without its limits."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not type(None))
        return _kind(inner)
    return annotation


def _help(field: FieldInfo) -> str:
    """Turn a docstring into a help text: one paragraph, without code markup."""
    text = " ".join((field.description or "").split())
    text = text.replace("``None``: ", "by default: ")
    return re.sub(r"(?::\w+:)?`+([^`]*)`+", r"\1", text)
