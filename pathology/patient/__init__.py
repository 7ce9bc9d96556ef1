"""One patient: slides, imaging studies, the clinical row, and what was found in each."""
