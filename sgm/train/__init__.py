"""Training: data, losses, one optimizer step, checkpoints."""
