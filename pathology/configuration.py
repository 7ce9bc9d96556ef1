"""Settings from a YAML file and from the command line, checked as one, and written so that they can be given again."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pathology.atomic_files import write_text
from pathology.errors import UsageError
from pathology.input_files import require_regular
from pathology.settings import Record

__all__ = ["CONFIG_NAME", "configured", "has_config", "merged", "read_config", "refined", "write_config"]

CONFIG_NAME = "config.yaml"
"""The file beside results and bundles that says with which settings they were made."""

_MOST_BYTES = 4 * 2**20
"""Largest file that is read: some 40,000 slides named one by one.  More belong into a manifest."""
_MOST_LEVELS = 20
"""Deepest nesting that is read; ours are four deep."""

_Settings = TypeVar("_Settings", bound=Record)


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file that maps names of settings to values.

    Parameters
    ----------
    path
        At most 4 MiB of plain YAML: no tags, no anchors and aliases, no name twice.

    Raises
    ------
    UsageError
        If it cannot be read or is not such a file.
    """
    require_regular(path, UsageError)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UsageError(
                f"the file is larger than {_MOST_BYTES // 2**20} MiB",
                where=path,
                remedy="Name many slides in a CSV manifest and give that",
            )
        text = content.decode("utf-8")
        _refuse_deep_and_repeated(text, path)
        values = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader that accepts less
    except OSError as error:
        raise UsageError(f"the file cannot be read ({error.strerror})", where=path, remedy="Check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError("the file is not UTF-8 text", where=path) from error
    except yaml.YAMLError as error:
        raise UsageError(f"the file is not valid YAML ({_in_one_line(error)})", where=path) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(
            "the file does not map settings to values", where=path, remedy="Write one 'name: value' on each line"
        )
    return values


def merged(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with others over them, mapping by mapping.

    Parameters
    ----------
    values
        From the file.
    given
        What goes before, such as the command line's.  ``True`` over a mapping keeps the mapping: what is asked for is
        already described.
    """
    result = dict(values)
    for name, value in given.items():
        before = result.get(name)
        if isinstance(value, Mapping):
            result[name] = merged(before if isinstance(before, Mapping) else {}, value)
        elif not (value is True and isinstance(before, Mapping)):
            result[name] = value
    return result


def configured(
    model: type[_Settings],
    given: Mapping[str, Any],
    *,
    file: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> _Settings:
    """Fill a settings model from a YAML file and the command line.

    Parameters
    ----------
    model
        What to fill.
    given
        Values of the command line; they go before the file's.
    file
        The YAML file; ``None``: there is none.
    options
        The command line's options by setting (``region.classes``: ``--tumour-class``); without them, settings are
        called by their own names.

    Raises
    ------
    UsageError
        Which file or option, which setting, what is wrong with it, and what could be there instead.
    """
    values = merged(read_config(file) if file is not None else {}, given)
    try:
        # JSON, because pydantic's strict mode is then strict in what a YAML file can get wrong ("4" or yes for 4), and
        # still takes lists for tuples and texts for paths.
        return model.model_validate_json(json.dumps(values, default=_as_json), strict=True)
    except ValidationError as error:
        raise _usage_error(_first(error), model, given, file, options or {}) from error


def refined(record: _Settings, values: Mapping[str, Any], *, file: Path | None, under: str) -> _Settings:
    """Return a record with some values changed.

    Parameters
    ----------
    record
        Where to start, such as a published recipe.
    values
        What differs, in mappings as deep as need be.
    file
        The YAML file that says so.
    under
        The setting in that file that holds the values.

    Raises
    ------
    UsageError
        As :func:`configured`.
    """
    if not values:
        return record
    changed = merged(record.model_dump(mode="json"), values)
    try:
        return type(record).model_validate_json(json.dumps(changed, default=_as_json))
    except ValidationError as error:
        raise _usage_error(_first(error), type(record), {}, file, {}, above=under) from error


def write_config(path: Path, settings: Record, command: str) -> None:
    """Write settings, defaults included, as a file that :func:`read_config` reads.

    Parameters
    ----------
    path
        The file.
    settings
        What was used.
    command
        How to give the file back.
    """
    write_text(path, _config_text(settings, command))


def has_config(path: Path, settings: Record, command: str) -> bool:
    """Whether :func:`write_config` has written the same file."""
    try:
        return path.read_text(encoding="utf-8") == _config_text(settings, command)
    except (OSError, UnicodeDecodeError):
        return False


def _config_text(settings: Record, command: str) -> str:
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return f"# The settings used, defaults included. To use them again:\n#   {command}\n{text}"


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C one where it is built
    """YAML's plain values only; a name that is given twice is an error, as YAML says and PyYAML does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping from its node."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a name must be text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        built: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return built


# YAML 1.2, JSON and people write 1e-4; YAML 1.1 takes it for a text.
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _as_json(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _refuse_deep_and_repeated(text: str, path: Path) -> None:
    """Refuse what lets a small file become large in memory, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=_PlainLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UsageError("anchors and aliases (& and *) are not read", where=path, remedy="Write the values out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_LEVELS:
            raise UsageError(f"the values are nested more than {_MOST_LEVELS} deep", where=path)


def _in_one_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark is not None else ""
    return line + str(getattr(error, "problem", None) or error).splitlines()[0]


def _first(error: ValidationError) -> ErrorDetails:
    """Choose the error to tell: what is misspelt first, because it is often why something else is missing."""
    return min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")


def _usage_error(
    first: ErrorDetails,
    model: type[BaseModel],
    given: Mapping[str, Any],
    file: Path | None,
    options: Mapping[str, str],
    *,
    above: str = "",
) -> UsageError:
    parts = [str(part) for part in first["loc"]]
    key = ".".join([above, *parts] if above else parts)
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    option = next((options[name] for name in reversed(names) if name in options), key)
    if first["type"] == "missing":
        asked = f"Give {option}" + (f", or {key} in the --config file" if options else "")
        return UsageError(f"{key} is missing", where=file, remedy=asked)
    from_file = file is not None and not _contains(given, parts)
    name, where = (key, file) if from_file else (option, None)
    if first["type"] == "extra_forbidden":
        known = _names_at(model, parts[:-1])
        near = difflib.get_close_matches(parts[-1], known, n=1)
        guess = f"Did you mean {near[0]}? " if near else ""
        return UsageError(
            f"{name}: there is no such setting", where=where, remedy=f"{guess}There are: {', '.join(known)}"
        )
    said = first["msg"].removeprefix("Value error, ")
    value = repr(first["input"])
    if len(value) <= 60 and first["type"] != "value_error":
        said += f", not {value}"
    return UsageError(f"{name}: {said}" if key else said, where=where)


def _contains(given: Mapping[str, Any], parts: list[str]) -> bool:
    """Whether the command line gave what stands at a place, as a whole or in part."""
    at: Any = given
    for part in parts:
        if not isinstance(at, Mapping):
            return True
        if part not in at:
            return False
        at = at[part]
    return bool(parts)


def _names_at(model: type[BaseModel], parts: list[str]) -> list[str]:
    for part in parts:
        field = model.model_fields.get(part)
        inner = next(_models_in(field.annotation), None) if field is not None else None
        if inner is not None:
            model = inner
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - a type expression
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
