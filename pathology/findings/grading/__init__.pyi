from .ajcc import stage_ajcc8
from .assessment import Assessment, MissingInputsError, MitosesInArea, NotApplicableError
from .fnclcc import grade_fnclcc, mitotic_score
from .uterine import assess_uterine

__all__ = [
    "Assessment",
    "MissingInputsError",
    "MitosesInArea",
    "NotApplicableError",
    "assess_uterine",
    "grade_fnclcc",
    "mitotic_score",
    "stage_ajcc8",
]
