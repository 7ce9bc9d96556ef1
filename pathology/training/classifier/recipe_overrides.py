"""Recipe overrides from the command line: ``--set patch=96 --set epochs=2``.

Those of a YAML file have the recipe's own form: :func:`pathology.configuration.refined`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from pathology.errors import UsageError
from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["changed_recipe"]

_OF_ALL_STAGES = ("epochs", "learning_rate", "lowest_rate")
"""Stage settings that can be set for all stages at once."""


def changed_recipe(recipe: SlideRecipe, changes: Sequence[str]) -> SlideRecipe:
    """Return a recipe with overridden settings.

    Parameters
    ----------
    recipe
        Original recipe.
    changes
        ``name=value`` with a YAML value; underscores and hyphens are equivalent.  A recipe setting; ``epochs``,
        ``learning-rate`` or ``lowest-rate`` for all stages; ``stages=N`` to keep the first N stages; or a network
        option as ``network.NAME``.

    Raises
    ------
    UsageError
        If a name is unknown or a value is out of range.
    """
    fields: dict[str, Any] = recipe.model_dump()
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set: expected NAME=VALUE, got {change!r}", remedy="Example: --set patch=96")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {name}: cannot parse {text!r}") from error
        if name in _OF_ALL_STAGES:
            fields["stages"] = [{**stage, name: value} for stage in fields["stages"]]
        elif name == "stages":
            if not isinstance(value, int) or not 1 <= value <= len(fields["stages"]):
                raise UsageError(f"--set stages={text}: the recipe has {len(fields['stages'])} stages")
            fields["stages"] = fields["stages"][:value]
        elif name.startswith("network."):
            fields["architecture_options"] = {
                **fields["architecture_options"],
                name.removeprefix("network."): value,
            }
        elif name in fields:
            fields[name] = value
        else:
            near = difflib.get_close_matches(name, [*fields, *_OF_ALL_STAGES], n=1)
            raise UsageError(
                f"--set {name}: unknown setting",
                remedy=f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(fields)}",
            )
    try:
        return SlideRecipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set {place}: {first['msg']}" if place else str(first["msg"])) from error
