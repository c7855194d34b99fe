"""A run's folder: its files, read and written in one place."""
