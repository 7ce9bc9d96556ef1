from .clinical import ClinicalTable, read_clinical
from .patient_summary import PatientSummary, summarise_record
from .readability import Readability, readability
from .record import PatientRecord, build_records, patient_table

__all__ = [
    "ClinicalTable",
    "PatientRecord",
    "PatientSummary",
    "Readability",
    "build_records",
    "patient_table",
    "read_clinical",
    "readability",
    "summarise_record",
]
