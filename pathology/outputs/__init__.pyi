from . import export, figures, reports, results

__all__ = ["export", "figures", "reports", "results"]
