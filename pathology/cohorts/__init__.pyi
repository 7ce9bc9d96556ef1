from .index import PublicCohort, find_cohort
from .labels import read_diagnoses
from .regions import SlideRegions, read_slide_regions, write_slide_regions

__all__ = ["PublicCohort", "SlideRegions", "find_cohort", "read_diagnoses", "read_slide_regions", "write_slide_regions"]
