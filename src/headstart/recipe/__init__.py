"""Everything that decides a training run, as plain data."""
