"""Tables, derived from a study; never edited by hand, always rebuilt."""
