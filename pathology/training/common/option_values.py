"""Values of settings as the command line gives them."""

from __future__ import annotations

__all__ = ["names_with_commas"]


def names_with_commas(value: object) -> object:
    """Take ``a,b`` for ``[a, b]``; leave everything else to the field's own check.

    Examples
    --------
    >>> names_with_commas(["a, b", "c"])
    ('a', 'b', 'c')
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        return value
    return tuple(name.strip() for part in value for name in part.split(","))
