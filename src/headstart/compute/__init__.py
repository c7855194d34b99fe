"""Device, arithmetic, processes and memory."""
