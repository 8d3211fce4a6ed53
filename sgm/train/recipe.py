"""A training recipe: the schema of `configs/train/*.yaml`."""
from dataclasses import dataclass, field
from typing import List

from sgm.config import ConfigError


@dataclass
class Recipe:
    """What `train.py` does; a file says only what differs."""
    task: str = "diffusion"                     # "diffusion" trains the UNet, "autoencoder" the VAE
    trains: str = "all"                         # the whole network, or of the autoencoder the "decoder": latents stay valid
    data: List[str] = field(default_factory=list)   # packed folders of tools/render_orbits.py --pack
    seed: int = 0                               # of weights, data order, noise
    steps: int = 10000
    batch: int = 1                              # clips (diffusion) or single views (autoencoder) a step
    lr: float = 1e-4                            # after `warmup` steps of linear rise; falls as a cosine to lr_final * lr
    lr_final: float = 0.01
    warmup: int = 100
    betas: List[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.01
    clip_norm: float = 1.0                      # of the global gradient norm; 0 switches clipping off
    average_decay: float = 0.9999               # of the moving average of the weights, reached after a short rise
    p_mean: float = 1.0                         # ln sigma ~ N(p_mean, p_std^2), one sigma per clip
    p_std: float = 1.6
    drop_condition: float = 0.1                 # of clips whose CLIP token and latent are zeroed together
    roam: float = 0.0                           # of clips that start anywhere on the orbit and run either way round
    kl_weight: float = 1e-4                     # autoencoder only
    crop: int = 0                               # autoencoder only: pixels of random square crops; 0 = whole views
    save_every: int = 500                       # steps between checkpoints
    log_every: int = 20                         # steps that one row of metrics.csv averages

    def validate(self):
        """Raise ConfigError naming the first value that cannot be."""
        if self.task not in ("diffusion", "autoencoder"):
            raise ConfigError(f"task: found {self.task!r}, expected diffusion or autoencoder")
        parts = ("all", "decoder") if self.task == "autoencoder" else ("all",)
        if self.trains not in parts:
            raise ConfigError(f"trains: found {self.trains!r}, expected {' or '.join(parts)} for {self.task}")
        for name in ("steps", "batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not self.lr > 0:
            raise ConfigError(f"lr: found {self.lr}, expected a positive learning rate")
        for name in ("drop_condition", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected 0 <= {name} < 1")
        if not 0 <= self.roam <= 1:
            raise ConfigError(f"roam: found {self.roam}, expected 0 to 1")
        if len(self.betas) != 2:
            raise ConfigError(f"betas: found {len(self.betas)} numbers, expected 2")
