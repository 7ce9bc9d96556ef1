"""Risk groups: cut-offs learnt from training patients and fixed before anybody else is looked at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["RiskGroups"]

_NAMES = {2: ("low", "high"), 3: ("low", "medium", "high")}


class RiskGroups(Record):
    """Cut-offs of a risk and the names of the groups between them."""

    cuts: tuple[float, ...]
    """Ascending; a risk equal to a cut-off belongs to the higher group."""
    names: tuple[str, ...]
    """One more than cut-offs, from the lowest risk to the highest."""

    @classmethod
    def cut(cls, risk: npt.ArrayLike, groups: int = 2) -> RiskGroups:
        """Cut at equal shares of the training patients.

        Parameters
        ----------
        risk
            Risks of the training patients, shape (N,).
        groups
            Number of groups, at least 2.

        Raises
        ------
        UsageError
            Fewer than two groups, or risks too alike to be cut.
        """
        if groups < 2:
            raise UsageError(f"{groups} risk groups cannot be told apart", remedy="Use 2 or more")
        values = np.asarray(risk, dtype=float)
        cuts = np.quantile(values, np.arange(1, groups) / groups)
        if not np.all(np.diff(cuts) > 0) or cuts[0] <= values.min():
            # Ties: fall back on the distinct values, where there are enough of them.
            distinct = np.unique(values)
            if len(distinct) < groups:
                raise UsageError(f"the risks take {len(distinct)} values and cannot be cut into {groups} groups")
            cuts = distinct[(np.arange(1, groups) * len(distinct)) // groups]
        names = _NAMES.get(groups, tuple(f"group {i + 1}" for i in range(groups)))
        return cls(cuts=tuple(float(c) for c in cuts), names=names)

    def assign(self, risk: npt.ArrayLike) -> list[str]:
        """Return the group of each risk."""
        return [self.names[i] for i in np.digitize(np.asarray(risk, dtype=float), self.cuts)]
