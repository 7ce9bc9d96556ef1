from . import models
from .covariates import CovariateSettings, read_outcome_columns
from .crossvalidation import Candidate, CrossValidation, CrossValidationSettings, cross_validate
from .metrics import LogRank, harrell_c, integrated_brier_score, log_rank, uno_c
from .nonparametric import KaplanMeier, StepFunction, kaplan_meier, nelson_aalen
from .outcome import Outcome

__all__ = [
    "Candidate",
    "CovariateSettings",
    "CrossValidation",
    "CrossValidationSettings",
    "KaplanMeier",
    "LogRank",
    "Outcome",
    "StepFunction",
    "cross_validate",
    "harrell_c",
    "integrated_brier_score",
    "kaplan_meier",
    "log_rank",
    "models",
    "nelson_aalen",
    "read_outcome_columns",
    "uno_c",
]
