"""Searches: which points are tried, how workers share them, and how the best become an experiment."""
