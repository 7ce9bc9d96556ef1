"""Risk groups, with cut-offs fitted on the training patients and fixed for all others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["RiskGroups"]

_NAMES = {2: ("low", "high"), 3: ("low", "medium", "high")}


class RiskGroups(Record):
    """Risk cut-offs and names of the risk groups."""

    cuts: tuple[float, ...]
    """Ascending cut-offs; a risk equal to a cut-off belongs to the higher group."""
    names: tuple[str, ...]
    """Group names from lowest to highest risk, one more than cut-offs."""

    @classmethod
    def cut(cls, risk: npt.ArrayLike, groups: int = 2) -> RiskGroups:
        """Cut into equal-sized groups of training patients.

        Parameters
        ----------
        risk
            Risks of the training patients, shape (N,).
        groups
            Number of groups, at least 2.

        Raises
        ------
        UsageError
            Fewer than two groups, or too few distinct risks.
        """
        if groups < 2:
            raise UsageError(f"expected at least 2 risk groups, got {groups}", remedy="Use 2 or more")
        values = np.asarray(risk, dtype=float)
        cuts = np.quantile(values, np.arange(1, groups) / groups)
        if not np.all(np.diff(cuts) > 0) or cuts[0] <= values.min():
            # Ties: fall back to the distinct values, if there are enough.
            distinct = np.unique(values)
            if len(distinct) < groups:
                raise UsageError(f"{len(distinct)} distinct risks cannot be cut into {groups} groups")
            cuts = distinct[(np.arange(1, groups) * len(distinct)) // groups]
        names = _NAMES.get(groups, tuple(f"group {i + 1}" for i in range(groups)))
        return cls(cuts=tuple(float(c) for c in cuts), names=names)

    def assign(self, risk: npt.ArrayLike) -> list[str]:
        """Return the risk group of each patient."""
        return [self.names[i] for i in np.digitize(np.asarray(risk, dtype=float), self.cuts)]
