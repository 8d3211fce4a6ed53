"""A run's folder: checkpoints, log, validation, plan, and the other processes."""
