from .clinical import ClinicalTable, read_clinical
from .patient_summary import PlainText, plain_text
from .readability import Readability, readability
from .record import PatientRecord, build_records, patient_table

__all__ = [
    "ClinicalTable",
    "PatientRecord",
    "PlainText",
    "Readability",
    "build_records",
    "patient_table",
    "plain_text",
    "read_clinical",
    "readability",
]
