"""A training recipe: the schema of `configs/train/*.yaml`."""
import math
from dataclasses import dataclass, field, replace
from typing import List

from sgm.common.cli import MAX_SEED
from sgm.config.checks import require, require_one_of, require_positive, require_within
from sgm.config.yaml_reader import ConfigError, shown

BACKGROUNDS = ("white", "random", "both")


@dataclass
class DataSettings:
    """The keys of a recipe that `open_data` reads."""
    data: List[str] = field(default_factory=list)       # packed sets, orbit folders, Objaverse lists, videos; globs too
    val: List[str] = field(default_factory=list)    # the same, held out; else what val.txt in a folder of `data` names
    background: str = "white"       # of orbit folders: white, a random colour for each clip, or both (each orbit twice)
    condition: str = "any"          # which view of an orbit the network is shown: "any", or the "last" of the folder
    augment: List[float] = field(default_factory=list)  # [mean, std] of the ln of the condition image's noise; [] = none
    stride: int = 1                 # videos: every how manieth frame of a file is taken
    cache: bool = True              # encode each clip once; false: from pixels, each step
    cache_folder: str = ""          # of what is encoded; "" = "cache" beside the first of `data`
    cache_gb: float = 50.0          # most it may hold; what was used longest ago goes first
    encode_chunk: int = 7           # frames that the autoencoder encodes at once: lower it for want of memory

    def validate_data(self):
        """Raise ConfigError naming the first of these values that cannot be."""
        require_one_of(self.background, "background", BACKGROUNDS)
        require_one_of(self.condition, "condition", ("any", "last"))
        noise = self.augment
        require(not noise or len(noise) == 2 and all(map(math.isfinite, noise)) and noise[1] >= 0, "augment", noise,
                "[mean, std] of ln sigma as in [-3, 0.5], or []")
        require_within(self, "", {"stride": (1, 1000), "cache_gb": (1e-3, 1e6), "encode_chunk": (1, 1000)})


# What may be trained, by task; `sgm.train.trainable` says which parameters that is.
TRAINS = {"diffusion": ("all", "temporal", "lora"), "autoencoder": ("all", "decoder"), "decoder": ("all",)}
PRECISIONS = ("auto", "fp32", "bf16", "fp16")       # auto: bf16 where the device has it, else fp32
SCHEDULES = ("cosine", "constant")
MAX_COUNT = 1 << 31                             # upper bound of any number of steps, clips or pixels: catches typos
# What a resumed run may change: none of it changes what a step computes. (With a cosine, `steps` bends the rates to come.)
HARMLESS = ("steps", "save_every", "log_every", "keep", "val", "val_batches", "sheet_every", "sheet_clips",
            "sheet_steps", "bad_steps", "recompute", "cache_folder", "cache_gb")


@dataclass
class Recipe(DataSettings):
    """What `train.py` does; a file says only what differs. What it is trained on: `DataSettings`."""
    task: str = "diffusion"                     # "diffusion" trains the UNet, "autoencoder" the VAE,
                                                # "decoder" the VAE's decoder on latents as the UNet predicts them
    trains: str = "all"                         # all, temporal or lora of the UNet; all or decoder of the autoencoder
    seed: int = 0                               # of weights, data order, noise
    steps: int = 10000                          # optimiser steps
    batch: int = 1                              # clips (diffusion) or single views (the others) at once
    accumulate: int = 1                         # batches whose mean gradient makes one step
    precision: str = "fp32"                     # of the UNet's computation; its weights and their moments stay float32
    recompute: bool = False                     # of blocks in the backward pass: less memory, a third more time
    lr: float = 1e-4                            # after `warmup` steps of linear rise
    schedule: str = "cosine"                    # then falls to lr_final * lr at the last step; or stays "constant"
    lr_final: float = 0.01
    warmup: int = 100
    betas: List[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.01
    clip_norm: float = 1.0                      # of the global gradient norm; 0 switches clipping off
    average_decay: float = 0.9999               # of the moving average of the weights, reached after a short rise
    lora_rank: int = 16                         # trains: lora
    lora_alpha: float = 16.0                    # its product counts alpha / rank times
    p_mean: float = 1.0                         # ln sigma ~ N(p_mean, p_std^2), one sigma per clip
    p_std: float = 1.6
    drop_condition: float = 0.1                 # of clips whose CLIP token and latent are zeroed together
    frames: int = 0                             # of each clip, drawn anew each step, the condition view always; 0 = all
    roam: float = 0.0                           # of clips that start anywhere on the orbit and run either way round
    front_weight: float = 1.0                   # of the condition view in the loss, relative to the view behind the object
    kl_weight: float = 1e-4                     # autoencoder only
    crop: int = 0                               # not diffusion: pixels of random square crops; 0 = whole views
    predicted: float = 0.75                     # decoder only: of the latents that are predicted; the others are encoded
    predicted_clips: int = 800                  # decoder only: at most so many are predicted, before the first step
    bad_steps: int = 10                         # steps in a row with a loss or gradient that is not finite, then it stops
    val_batches: int = 8                        # at most so many, the same ones every time
    sheet_every: int = 1000                     # diffusion only: steps between sheets of generated held-back clips; 0 = none
    sheet_clips: int = 4                        # of them, at most
    sheet_steps: int = 10                       # of the sampler
    save_every: int = 500                       # steps between checkpoints; the held-back loss is taken before each
    keep: int = 1                               # latest weights that are kept; the best are kept beside them
    log_every: int = 20                         # steps that one row of metrics.csv averages

    def validate(self):
        """Raise ConfigError naming the first value that cannot be."""
        self.validate_data()
        require_one_of(self.task, "task", TRAINS)
        require_one_of(self.trains, "trains", TRAINS[self.task], f" for task {self.task}")
        require_one_of(self.precision, "precision", PRECISIONS)
        require_one_of(self.schedule, "schedule", SCHEDULES)
        counts = ("steps", "batch", "accumulate", "bad_steps", "val_batches", "save_every", "keep", "log_every", "lora_rank",
                  "sheet_clips", "sheet_steps", "predicted_clips")
        require_within(self, "", {
            **dict.fromkeys(counts, (1, MAX_COUNT)),
            **dict.fromkeys(("warmup", "crop", "frames", "sheet_every"), (0, MAX_COUNT)), "seed": (0, MAX_SEED),
            **dict.fromkeys(("weight_decay", "clip_norm", "kl_weight", "p_std"), (0, 1e6)),
            **dict.fromkeys(("roam", "lr_final", "front_weight", "predicted"), (0, 1)), "p_mean": (-100, 100)})
        require_positive(self, "", ["lr", "lora_alpha"], 1e6)
        for name in ("drop_condition", "average_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), f"0 <= {name} < 1")
        require(len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "betas", self.betas,
                "two numbers from 0 to below 1")
        require(self.task == "diffusion" or self.precision in ("auto", "fp32"), "precision", self.precision,
                "fp32 for the autoencoder, whose values half precision does not hold")
        require(self.front_weight == 1 or not self.roam, "roam", self.roam,
                "0 with front_weight: of clips that roam it is not known which view is near the condition")

    def differences(self, recorded):
        """What differs from a recipe recorded as a mapping, as (harmful, harmless): lists of "lr: 0.1, now 0.2".

        Keys that the record lacks are of a later version, and are passed over.
        """
        harmful, harmless = [], []
        for name, value in vars(self).items():
            if name in recorded and recorded[name] != value:
                (harmless if name in HARMLESS else harmful).append(f"{name}: {shown(recorded[name])}, now {shown(value)}")
        return harmful, harmless


def resolve_precision(recipe, device, limit=None):
    """The recipe with the precision that "auto" means on `device` ("CPU" or "Ascend").

    limit: why half precision is no good on this NPU, which saturates instead of overflowing, so that neither a scale of the
    loss nor a check of its value would notice. Raises ConfigError for a precision that cannot be.
    """
    found = recipe.precision
    if found == "auto":
        half = device == "Ascend" and not limit and recipe.task == "diffusion"
        return replace(recipe, precision="bf16" if half else "fp32")
    if found == "bf16" and device == "CPU":
        raise ConfigError("precision: found bf16, expected fp32: MindSpore has no bfloat16 kernels for a CPU")
    if found != "fp32" and limit:
        raise ConfigError(f"precision: found {found}, expected fp32: {limit}")
    return recipe
