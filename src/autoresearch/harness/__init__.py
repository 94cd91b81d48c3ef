"""The locked side of an experiment: the clock, the data, the scorer. Only child processes import it."""
