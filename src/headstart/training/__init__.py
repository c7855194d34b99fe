"""The training story: run.py, read from top to bottom."""
