"""Schema of the stores that keep evidence: numbered files, one folder an engine."""
