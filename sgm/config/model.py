"""The configuration schema of a model: dataclasses whose defaults are the published SVD networks.

A YAML file in `configs/` states only what differs. Unknown keys and wrong types are errors that
name the key.
"""
import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import List

from sgm.config.checks import require, require_one_of, require_positive, require_within

EMBEDDERS = ("cond_frames_without_noise", "cond_frames", "fps_id", "motion_bucket_id", "cond_aug",
             "polars_rad", "azimuths_rad")
ANGLES = ("polars_rad", "azimuths_rad")
DECODERS = ("image", "temporal")
DTYPE_NAMES = ("fp32", "fp16", "bf16")          # types of numbers as flags spell them
# precisions of the UNet; the last one only keeps its weights in float16 and computes in float32
PRECISIONS = (*DTYPE_NAMES, "fp16-weights")
SAMPLERS = ("euler", "heun", "dpmpp2m", "unipc")
# Settings of --preset: the fewest steps that are as near to the converged solution as 50 steps of
# Euler, where that is known (benchmarks/few_steps.py).
PRESETS = {"few-steps": ("sampling.sampler=dpmpp2m", "sampling.steps=12",
                         "sampling.sigma_min=0.02", "sampling.sigma_second=20")}
GUIDANCES = ("linear", "triangle", "trapezoid", "constant")
FPS, MAX_FPS = 6, 1000      # frames per second of a video of views, unless another is asked for
GROUPS = 32     # groups of every group norm of the published models
# Upper bounds that catch typos before they exhaust memory. Published models stay far below.
MAX_NUMBER, MAX_LAYERS, MAX_STEPS, MAX_FRAMES, MAX_SIDE = 1 << 20, 1000, 10_000, 1000, 8192


@dataclass
class UNetSpec:
    """Settings of the VideoUNet (SVD, arXiv 2311.15127 app. D): widths, levels with attention."""
    in_channels: int = 8                        # noisy latent + latent of the condition image
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: List[int] = field(default_factory=lambda: [1, 2, 4, 4])
    num_res_blocks: int = 2
    # down-sampling factors of the levels with attention
    attention_resolutions: List[int] = field(default_factory=lambda: [4, 2, 1])
    num_head_channels: int = 64
    norm_groups: int = GROUPS                   # groups of every group norm
    context_dim: int = 1024                     # width of the CLIP token

    @property
    def down_factor(self):
        """Return the latent pixels per pixel of the coarsest level, along one side."""
        return 2 ** (len(self.channel_mult) - 1)

    def validate(self, section="unet."):
        """Raise ConfigError unless the widths fit the group norms and the heads."""
        require_positive(self, section,
                         [f.name for f in fields(self) if f.name != "attention_resolutions"],
                         MAX_NUMBER)
        require_positive(self, section, ["num_res_blocks"], MAX_LAYERS)
        factors = [2 ** level for level in range(len(self.channel_mult))]
        require(set(self.attention_resolutions) <= set(factors), section + "attention_resolutions",
                self.attention_resolutions, f"some of {factors}, the levels' down-sampling factors")
        for factor, mult in zip(factors, self.channel_mult):
            width = self.model_channels * mult
            # the middle always attends
            heads = factor in self.attention_resolutions or factor == factors[-1]
            unit = math.lcm(self.norm_groups, self.num_head_channels) if heads else self.norm_groups
            require(width % unit == 0, section + "model_channels", self.model_channels,
                    f"{width} channels ({self.model_channels} * {mult}) to be a multiple of {unit}"
                    f" ({self.norm_groups} groups"
                    f"{f', heads of {self.num_head_channels}' if heads else ''})")


@dataclass
class VaeSpec:
    """Settings of the autoencoder.

    `decoder`: "image" decodes each frame alone, "temporal" is SVD's deflickering decoder.
    """
    ch: int = 128
    ch_mult: List[int] = field(default_factory=lambda: [1, 2, 4, 4])
    num_res_blocks: int = 2
    z_channels: int = 4
    norm_groups: int = GROUPS                   # groups of every group norm
    scale_factor: float = 0.18215
    decoder: str = "temporal"
    post_quant_conv: bool = False  # svd_image_decoder: an AutoencoderKL with its 1x1 convolutions

    @property
    def factor(self):
        """Return the pixels per latent along one side."""
        return 2 ** (len(self.ch_mult) - 1)

    def validate(self, section="vae."):
        """Raise ConfigError unless the widths fit the group norms and the decoder is known."""
        require_positive(self, section,
                         ["ch", "ch_mult", "z_channels", "norm_groups", "scale_factor"], MAX_NUMBER)
        require_positive(self, section, ["num_res_blocks"], MAX_LAYERS)
        unit = math.lcm(GROUPS, self.norm_groups)
        require(all(self.ch * mult % unit == 0 for mult in self.ch_mult), section + "ch", self.ch,
                f"every level's channels to be a multiple of {unit}, for groups of equal size")
        require_one_of(self.decoder, section + "decoder", DECODERS)


@dataclass
class ClipSpec:
    """Settings of the OpenCLIP vision transformer; the defaults are ViT-H-14's image tower."""
    image_size: int = 224
    patch_size: int = 14
    width: int = 1280
    layers: int = 32
    head_width: int = 80
    embed_dim: int = 1024

    def validate(self, section="clip."):
        """Raise ConfigError unless patches tile the image and heads the width."""
        require_positive(self, section, [f.name for f in fields(self)], MAX_NUMBER)
        require_positive(self, section, ["layers"], MAX_LAYERS)
        require(self.image_size % self.patch_size == 0, section + "patch_size", self.patch_size,
                f"a divisor of {section}image_size {self.image_size}")
        require(self.width % self.head_width == 0, section + "head_width", self.head_width,
                f"a divisor of {section}width {self.width}")


@dataclass
class ConditionSpec:
    """Settings of the embedders, in the order of `conditioner.embedders.N`.

    Scalars have a width in `vector`, images have none.
    """
    embedders: List[str] = field(default_factory=lambda: [
        "cond_frames_without_noise", "fps_id", "motion_bucket_id", "cond_frames", "cond_aug"])
    scalar_dim: int = 256  # sinusoid width of cond_aug, fps_id, motion_bucket_id
    angle_dim: int = 512                        # sinusoid width of polars_rad, azimuths_rad
    # highest frequency of the sinusoidal embedding of angles, in radians per radian
    angle_scale: float = 1.0
    cond_aug: float = 0.02                      # default noise level of the condition image

    def validate(self, section="condition."):
        """Raise ConfigError unless the embedders are known, unique and complete.

        They must give crossattn, concat and vector.
        """
        for name in self.embedders:
            require_one_of(name, section + "embedders", EMBEDDERS)
        names = set(self.embedders)
        key = section + "embedders"
        needed = {"cond_frames_without_noise", "cond_frames", "cond_aug"}
        require(len(names) == len(self.embedders), key, self.embedders, "each embedder once")
        require(needed <= names, key, self.embedders,
                "cond_frames_without_noise, cond_frames and cond_aug among them")
        require(("polars_rad" in names) == ("azimuths_rad" in names), key, self.embedders,
                "polars_rad and azimuths_rad both, or neither")
        for name in ("scalar_dim", "angle_dim"):
            value = getattr(self, name)
            require(0 < value <= MAX_NUMBER and value % 2 == 0, section + name, value,
                    f"a positive even number up to {MAX_NUMBER} (cosines and sines)")
        require_positive(self, section, ["angle_scale"], MAX_NUMBER)
        require_within(self, section, {"cond_aug": (0, MAX_NUMBER)})


@dataclass
class SamplingSpec:
    """Defaults of the sampler.

    Steps, sampler and guidance have flags of `simple_video_sample.py`; the others are changed with
    `--set`.
    """
    sampler: str = "euler"
    steps: int = 25
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0
    # Noise level of the second step, with the others spread below it; 0: all below sigma_max. While
    # nothing but noise is to be seen, the estimate hardly changes, and one step is enough.
    sigma_second: float = 0.0
    # Standard deviation of the first noise, relative to sigma_max. Less than 1 starts nearer to the
    # mean of what is possible: less sharp views with fewer errors (like the truncation of a GAN's
    # latents). 0 makes the result independent of the seed.
    start_noise: float = 1.0
    guidance: str = "linear"
    min_scale: float = 1.0
    max_scale: float = 2.5
    # Orbit whose views image_to_mesh.py makes a mesh of: "static", "sine-A", A degrees up and down,
    # or "auto", sine-30 if the network is told angles.
    mesh_orbit: str = "auto"

    def validate(self, section="sampling."):
        """Raise ConfigError for unknown names and for noise levels that do not fall."""
        require(re.fullmatch(r"auto|static|sine-\d+(\.\d+)?", self.mesh_orbit),
                section + "mesh_orbit", self.mesh_orbit, "auto, static, or sine-A as in sine-30")
        require_one_of(self.sampler, section + "sampler", SAMPLERS)
        require_one_of(self.guidance, section + "guidance", GUIDANCES)
        require_positive(self, section, ["steps"], MAX_STEPS)
        require_positive(self, section, ["sigma_min", "sigma_max", "rho"], MAX_NUMBER)
        require(self.sigma_min < self.sigma_max, section + "sigma_min", self.sigma_min,
                f"less than {section}sigma_max {self.sigma_max}")
        require(self.sigma_second == 0 or self.sigma_min < self.sigma_second < self.sigma_max,
                section + "sigma_second", self.sigma_second,
                f"0, or between {section}sigma_min {self.sigma_min} and {section}sigma_max"
                f" {self.sigma_max}")
        scales = (-MAX_NUMBER, MAX_NUMBER)
        require_within(self, section,
                       {"start_noise": (0, 1), "min_scale": scales, "max_scale": scales})


@dataclass
class ModelSpec:
    """One model: its networks and how it is sampled."""
    name: str = "svd"
    num_frames: int = 14
    height: int = 576                           # pixels of a frame
    width: int = 1024
    unet: UNetSpec = field(default_factory=UNetSpec)
    vae: VaeSpec = field(default_factory=VaeSpec)
    clip: ClipSpec = field(default_factory=ClipSpec)
    condition: ConditionSpec = field(default_factory=ConditionSpec)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)

    @property
    def is_orbit(self):
        """Return whether the frames are views of an orbit (SV3D) rather than a video (SVD)."""
        return "fps_id" not in self.condition.embedders

    @property
    def is_posed(self):
        """Return whether the network is conditioned on polar angles and azimuths (SV3D_p)."""
        return "polars_rad" in self.condition.embedders

    @property
    def mesh_orbit(self):
        """Return the orbit whose views image_to_mesh.py makes a mesh of."""
        orbit = self.sampling.mesh_orbit
        return ("sine-30" if self.is_posed else "static") if orbit == "auto" else orbit

    @property
    def vector_widths(self):
        """Return {embedder: columns} of the vector condition, in order."""
        return {name: self.condition.angle_dim if name in ANGLES else self.condition.scalar_dim
                for name in self.condition.embedders if not name.startswith("cond_frames")}

    def vector_scale(self, name):
        """Return the factor on an embedder's numbers before their sinusoids."""
        return self.condition.angle_scale if name in ANGLES else 1.0

    @property
    def vae_factor(self):
        """Return the pixels per latent along one side."""
        return self.vae.factor

    def validate(self):
        """Raise ConfigError naming the first field that no network can have."""
        for section in fields(self):
            part = getattr(self, section.name)
            if is_dataclass(part):
                part.validate()
        require_positive(self, "", ["num_frames"], MAX_FRAMES)
        unit = self.vae_factor * self.unet.down_factor
        for name in ("height", "width"):
            pixels = getattr(self, name)
            require(0 < pixels <= MAX_SIDE and pixels % unit == 0, name, pixels,
                    f"a positive multiple of {unit} up to {MAX_SIDE} (the autoencoder's"
                    f" {self.vae_factor} x the UNet's {self.unet.down_factor})")
        z = self.vae.z_channels
        require(self.unet.in_channels == 2 * z, "unet.in_channels", self.unet.in_channels,
                f"{2 * z}: noisy and condition latent of vae.z_channels {z} each")
        require(self.unet.out_channels == z, "unet.out_channels", self.unet.out_channels,
                f"vae.z_channels {z}")
        require(self.is_posed or not self.mesh_orbit.startswith("sine"), "sampling.mesh_orbit",
                self.mesh_orbit, "static: the network is not told elevations")
        require(self.clip.embed_dim == self.unet.context_dim, "clip.embed_dim", self.clip.embed_dim,
                f"unet.context_dim {self.unet.context_dim}")
