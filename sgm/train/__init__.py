"""Training: data, objective, one optimiser step, checkpoints."""
