"""A run whose processes are killed at random moments, and what must hold all the while.

Everything is real: the installed command, git, processes, the sandbox where there is one. What is trained is a bigram
model, so that an experiment takes a second, and is in each of its phases for a good part of it. `test_random_kills.py`
and `benchmarks/kills.py` share this.
"""
