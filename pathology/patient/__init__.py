"""Patient records: slides, imaging studies, clinical data and survival predictions of one patient, merged by ID."""
