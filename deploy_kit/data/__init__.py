"""The feature file: what stands in it, how it is written and read."""
