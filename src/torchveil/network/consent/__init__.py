"""Who may see what, at one party: provenance of values, grants of owners, decisions, the log of releases."""
