"""Unattended machine-learning research: code owns the loop, the model only proposes."""

__version__ = "0.1.0"
