from .index import PublicCohort, find_cohort
from .labels import read_diagnoses

__all__ = ["PublicCohort", "find_cohort", "read_diagnoses"]
