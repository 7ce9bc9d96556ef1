"""Whether any field of a record says that the patient has died."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["field_of_death"]

_COLUMN = re.compile(
    r"death|dead|died|deceas|mortal|fatal|exitus|autops|postmortem|^os(event|status)?$|^dss(event|status)?$"
)
_WORDS = re.compile(
    r"\b(dead|died|dies|deceased|death|passed away|expired|exitus|post-?mortem|autopsy|verstorben|gestorben)\b", re.I
)
_CODES = frozenset({"dod", "doc", "d", "doo", "tot"})
"""Whole values: dead of disease, of other causes."""
_NO = frozenset({"", "0", "0.0", "no", "n", "false", "alive", "living", "censored", "none", "unknown", "na", "nan"})


def field_of_death(values: Mapping[str, object]) -> str:
    """Return the first clinical field that says the patient has died, or an empty text.

    Columns outside the vocabulary count as well: a flag such as ``DSS`` or ``deceased``, a date of or time to death, a
    cause of death, or a text such as ``died of disease``.  In doubt the answer is yes, because a letter to a patient
    who has died hurts those who find it, and a letter that was not written costs little.

    Parameters
    ----------
    values
        Clinical values by column; missing ones absent or None.

    Examples
    --------
    >>> field_of_death({"age_years": 54.0, "dss_event": 1.0})
    'dss_event'
    >>> field_of_death({"status": "alive with disease", "os_event": 0.0})
    ''
    """
    for name, value in values.items():
        if value is None or value != value:
            continue
        text = str(value).strip().lower()
        column = re.sub(r"[\s._\-]+", "", name).lower()
        if (_COLUMN.search(column) and text not in _NO) or _WORDS.search(text):
            return name
        if text in _CODES and column not in ("sex", "gender"):
            return name
    return ""
