"""The order of work and nothing else."""
