"""Seeds of procedural objects: which may be trained on, and which are held out."""
TRAIN_SEEDS = range(0, 100_000)
# never trained on: the small model's figures are measured on these
HELD_BACK_SEEDS = range(1_000_000, 1_000_016)
