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
    """The settings of a recipe that `open_data` reads."""
    # packed sets, orbit folders, Objaverse lists, videos; globs too
    data: List[str] = field(default_factory=list)
    # the same, held out; without it what val.txt in a folder of `data` names
    val: List[str] = field(default_factory=list)
    # background of orbit folders: white, a random color for each clip, or both (each orbit twice)
    background: str = "white"
    condition: str = "any"          # view of an orbit that is the condition: "any", or the "last"
    # [mean, std] of the ln of the noise on the condition image; [] = no noise
    augment: List[float] = field(default_factory=list)
    stride: int = 1                 # use every n-th frame of a video
    cache: bool = True              # encode each clip once; false: encode from pixels in each step
    # folder of the encoded clips; "" = "cache" next to the first of `data`
    cache_folder: str = ""
    cache_gb: float = 50.0          # largest size of the cache; entries used longest ago go first
    # frames that the autoencoder encodes at once; lower it if memory runs out
    encode_chunk: int = 7

    def validate_data(self):
        """Raise ConfigError naming the first of these values that is not allowed."""
        require_one_of(self.background, "background", BACKGROUNDS)
        require_one_of(self.condition, "condition", ("any", "last"))
        noise = self.augment
        require(not noise or len(noise) == 2 and all(map(math.isfinite, noise)) and noise[1] >= 0,
                "augment", noise, "[mean, std] of ln sigma as in [-3, 0.5], or []")
        require_within(self, "",
                       {"stride": (1, 1000), "cache_gb": (1e-3, 1e6), "encode_chunk": (1, 1000)})


# What may be trained, by task; `sgm.train.trainable` decides which parameters that is.
TRAINS = {"diffusion": ("all", "temporal", "lora"), "autoencoder": ("all", "decoder"),
          "decoder": ("all",), "autodecoder": ("all",), "latent_diffusion": ("all",),
          "feedforward": ("all",), "elevation": ("all",)}
# The tasks of a model of objects (`sgm.config.autodecoding`, `sgm.config.lrm`); the others are of a
# model of views.
OBJECT_TASKS = ("autodecoder", "latent_diffusion", "feedforward", "elevation")
WITH_SHEETS = ("diffusion", *OBJECT_TASKS[:3])      # of held-out clips or objects
PRECISIONS = ("auto", "fp32", "bf16", "fp16")       # auto: bf16 where the device has it, else fp32
SCHEDULES = ("cosine", "linear", "constant")
OPTIMIZERS = ("adamw", "muon")
MAX_COUNT = 1 << 31     # upper bound of any number of steps, clips or pixels: catches typos
# What a resumed run may change: none of it changes what a step computes. (With a cosine, `steps`
# bends the rates to come.)
HARMLESS = ("steps", "save_every", "log_every", "keep", "val", "val_batches", "sheet_every",
            "sheet_clips", "sheet_steps", "bad_steps", "recompute", "cache_folder", "cache_gb")


@dataclass
class Recipe(DataSettings):
    """The settings of `train.py`; a file states only what differs.

    The data is described by `DataSettings`.
    """
    # "diffusion" trains the UNet, "autoencoder" the VAE, "decoder" the VAE's decoder on latents
    # as the UNet predicts them; "autodecoder" trains objects' embeddings and volumes,
    # "latent_diffusion" the diffusion of their latents; "feedforward" trains a network from one
    # view of an object to its planes, "elevation" its estimator of that view's elevation
    task: str = "diffusion"
    # part that is trained: all, temporal or lora of the UNet; all or decoder of the autoencoder
    trains: str = "all"
    seed: int = 0                   # seed of weights, data order and noise
    steps: int = 10000              # optimizer steps
    # clips (diffusion), objects (autodecoder, latent_diffusion, feedforward) or views at once
    batch: int = 1
    accumulate: int = 1             # batches whose mean gradient makes one step
    # precision of the UNet's computation; its weights and their moments stay float32
    precision: str = "fp32"
    # recompute blocks in the backward pass: less memory, a third more time
    recompute: bool = False
    # "adamw", or "muon" for weight matrices (AdamW for the rest), meant for networks that are
    # trained from random weights
    optimizer: str = "adamw"
    lr: float = 1e-4                # learning rate after `warmup` steps of linear rise
    # "cosine" and "linear": the rate falls to lr_final * lr at the last step; "constant": it stays
    schedule: str = "cosine"
    lr_final: float = 0.01          # final rate as a share of lr
    warmup: int = 100               # steps of linear rise
    betas: List[float] = field(default_factory=lambda: [0.9, 0.999])    # AdamW's
    weight_decay: float = 0.01      # of either optimizer, decoupled from the gradient
    clip_norm: float = 1.0          # largest global gradient norm; 0 switches clipping off
    # decay of the moving average of the weights, reached after a short rise
    average_decay: float = 0.9999
    lora_rank: int = 16             # rank of the low-rank product (trains: lora)
    lora_alpha: float = 16.0        # the product is scaled by alpha / rank
    p_mean: float = 1.0             # ln sigma ~ N(p_mean, p_std^2), one sigma per clip
    p_std: float = 1.6
    # share of clips whose CLIP token and latent (of objects whose condition) are zeroed together
    drop_condition: float = 0.1
    # frames of each clip that a step uses, drawn in each step, with the condition view; 0 = all
    frames: int = 0
    # share of clips with a random start view and direction of the orbit
    roam: float = 0.0
    # weight of the condition view in the loss, relative to the view behind the object
    front_weight: float = 1.0
    kl_weight: float = 1e-4         # autoencoder only: weight of the KL divergence
    # not diffusion: weight of the difference in contrast of two octaves, against blur
    edge_weight: float = 0.0
    crop: int = 0                   # not diffusion: pixels of random square crops; 0 = whole views
    views: int = 4      # autodecoder, feedforward: views of each object that are rendered at once
    # autodecoder, feedforward: every so many-th view (latent_diffusion: object), from the first on,
    # is not trained on but measured; 0 = none (feedforward: all are both)
    hold_out: int = 0
    # autodecoder, feedforward: weight of the loss of the opacity, L1 or the mean square
    mask_weight: float = 10.0
    # autodecoder only: file with the weights of torchvision's vgg19 for the perceptual loss; "" =
    # differences of colors and gradients in its place
    vgg: str = ""
    # autodecoder only: weight of the perceptual loss; 0 trains shapes alone, from opacity
    color_weight: float = 1.0
    # latent_diffusion only: file with what each object is (tools/describe_objects.py); "" = nothing
    conditions: str = ""
    # feedforward only: pixels of a side of the views that are rendered, one after the other in
    # equal shares of the steps; [] = the size of the data
    stages: List[int] = field(default_factory=list)
    samples: int = 32               # feedforward only: samples of a ray, half of them in each pass
    # feedforward only: two files for LPIPS, torchvision's vgg16 and LPIPS's own layers for it; [] =
    # differences of colors and gradients on several scales in its place
    lpips: List[str] = field(default_factory=list)
    # feedforward only: weight of that loss, and the share of the steps that are made without it
    perceptual_weight: float = 1.0
    perceptual_from: float = 0.0
    variation_weight: float = 5e-4  # feedforward only: weight of the planes' total variation
    # feedforward only: largest error of each of the 16 numbers that the network is told of its
    # input's camera
    camera_noise: float = 0.02
    # feedforward, elevation: share of the inputs that are placed and scaled as a photograph's
    # object is; the others stay as they were rendered
    recentered: float = 0.5
    # decoder only: share of latents that are predicted; the others are encoded
    predicted: float = 0.75
    # decoder only: largest number of clips that are predicted before the first step, taken evenly
    # from all of them
    predicted_clips: int = 800
    # the run stops after this many steps in a row with a loss or gradient that is not finite
    bad_steps: int = 10
    val_batches: int = 8            # largest number of held-out batches, the same ones every time
    # diffusion, autodecoder, latent_diffusion, feedforward: steps between contact sheets of
    # held-out clips or views, or of generated objects; 0 = none. With one, diffusion also measures
    # its loss on training clips, as on the held-out ones
    sheet_every: int = 1000
    # largest number of clips on a sheet, taken evenly from the held-out ones
    sheet_clips: int = 4
    sheet_steps: int = 10           # sampling steps of a sheet
    # steps between checkpoints; the held-out loss is measured before each
    save_every: int = 500
    keep: int = 1                   # number of latest weights to keep, and of best ones
    log_every: int = 20             # steps averaged in one row of metrics.csv

    def validate(self):
        """Raise ConfigError naming the first value that is not allowed."""
        self.validate_data()
        require_one_of(self.task, "task", TRAINS)
        require_one_of(self.trains, "trains", TRAINS[self.task], f" for task {self.task}")
        require_one_of(self.precision, "precision", PRECISIONS)
        require_one_of(self.schedule, "schedule", SCHEDULES)
        require_one_of(self.optimizer, "optimizer", OPTIMIZERS)
        counts = ("steps", "batch", "accumulate", "bad_steps", "val_batches", "save_every", "keep",
                  "log_every", "lora_rank", "sheet_clips", "sheet_steps", "predicted_clips",
                  "views")
        require_within(self, "", {
            **dict.fromkeys(counts, (1, MAX_COUNT)),
            **dict.fromkeys(("warmup", "crop", "frames", "sheet_every", "hold_out"),
                            (0, MAX_COUNT)),
            "seed": (0, MAX_SEED),
            **dict.fromkeys(("weight_decay", "clip_norm", "kl_weight", "edge_weight", "p_std",
                             "mask_weight", "color_weight", "perceptual_weight",
                             "variation_weight", "camera_noise"), (0, 1e6)),
            **dict.fromkeys(("roam", "lr_final", "front_weight", "predicted", "perceptual_from",
                             "recentered"), (0, 1)),
            "samples": (8, 4096),
            "p_mean": (-100, 100)})
        require_positive(self, "", ["lr", "lora_alpha"], 1e6)
        for name in ("drop_condition", "average_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), f"0 <= {name} < 1")
        require(len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "betas",
                self.betas, "two numbers from 0 to below 1")
        require(self.task == "diffusion" or self.precision in ("auto", "fp32"), "precision",
                self.precision,
                f"fp32 for task {self.task}")
        require(all(8 <= side <= MAX_COUNT for side in self.stages), "stages", self.stages,
                "sides of at least 8 pixels")
        require(len(self.lpips) in (0, 2), "lpips", self.lpips,
                "two files, of VGG-16 and of LPIPS's own layers, or []")
        require(self.samples % 2 == 0, "samples", self.samples,
                "an even number: half of them in each pass")
        require(self.hold_out != 1, "hold_out", self.hold_out,
                "0 (none), or 2 and more (every n-th)")
        require(self.front_weight == 1 or not self.roam, "roam", self.roam,
                "0 with front_weight: of clips that roam it is not known which view is near the"
                " condition")

    def differences(self, recorded):
        """Return the differences from a recipe recorded as a mapping: (harmful, harmless).

        Both are lists of lines like "lr: 0.1, now 0.2". Keys that the record lacks are of a later
        version: the recorded run was as their defaults say.
        """
        harmful, harmless = [], []
        before = {**vars(type(self)()), **recorded}
        for name, value in vars(self).items():
            if before[name] != value:
                (harmless if name in HARMLESS else
                 harmful).append(f"{name}: {shown(before[name])}, now {shown(value)}")
        return harmful, harmless


def resolve_precision(recipe, device, limit=None):
    """Return the recipe with the precision that "auto" means on `device` ("CPU" or "Ascend").

    limit: why half precision is unsuitable on this NPU, or None. An NPU that saturates instead of
    overflowing would let neither a scale of the loss nor a check of its value notice. Raises
    ConfigError for a precision that the device does not have.
    """
    found = recipe.precision
    if found == "auto":
        half = device == "Ascend" and not limit and recipe.task == "diffusion"
        return replace(recipe, precision="bf16" if half else "fp32")
    if found == "bf16" and device == "CPU":
        raise ConfigError("precision: found bf16, expected fp32: MindSpore has no bfloat16 kernels"
                          " for a CPU")
    if found != "fp32" and limit:
        raise ConfigError(f"precision: found {found}, expected fp32: {limit}")
    return recipe
