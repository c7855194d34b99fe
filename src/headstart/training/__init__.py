"""The training story: fit.py, read from top to bottom."""
