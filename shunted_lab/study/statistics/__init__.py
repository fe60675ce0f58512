"""What the seeds of an experiment prove: paired differences, simultaneous intervals, races, effects and power."""
