"""Statistics, tables, figures and pages, derived from a study; never edited by hand, always rebuilt."""
