from .bootstrap import bootstrap
from .classification import ClassificationReport, area_under_roc, classification_report
from .conformal import ConformalRule, fit_conformal, prediction_sets
from .decision_curve import DecisionCurve, decision_curve
from .delong import DeLongTest, delong, delong_test
from .intervals import Interval, PairedTest, mcnemar, mean_interval, poisson_interval, wilson
from .reader_study import ReaderStudy, reader_study
from .splits import Fold, SplitAudit, audit_leakage, grouped_k_fold, grouped_split
from .temperature_scaling import TemperatureFit, fit_temperature, tempered

__all__ = [
    "ClassificationReport",
    "ConformalRule",
    "DeLongTest",
    "DecisionCurve",
    "Fold",
    "Interval",
    "PairedTest",
    "ReaderStudy",
    "SplitAudit",
    "TemperatureFit",
    "area_under_roc",
    "audit_leakage",
    "bootstrap",
    "classification_report",
    "decision_curve",
    "delong",
    "delong_test",
    "fit_conformal",
    "fit_temperature",
    "grouped_k_fold",
    "grouped_split",
    "mcnemar",
    "mean_interval",
    "poisson_interval",
    "prediction_sets",
    "reader_study",
    "tempered",
    "wilson",
]
