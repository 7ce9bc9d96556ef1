from .results_folder import Results, SlideFolder, open_results
from .tables import read_results

__all__ = ["Results", "SlideFolder", "open_results", "read_results"]
