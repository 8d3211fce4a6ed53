"""The configuration schema of an autodecoder: the networks of `sgm/autodecoder`.

The defaults are those of AutoDecoding (Ntavelis et al. 2023, arXiv 2307.05445) for Chairs: section
3.1, appendix B and table 5. A file in `configs/autodecoder/` states only what differs.
"""
import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import List

from sgm.config.checks import require, require_one_of, require_positive, require_within
from sgm.config.model import MAX_LAYERS, MAX_NUMBER
from sgm.config.yaml_reader import build, find_config, read_mapping

FIRST_SIDE, LATENT_SIDE = 4, 8  # voxels a side of the first volume, and of the latent one
SIDES = (16, 32, 64, 128)
CONDITIONS = ("", "class", "image", "text")
KIND = "autodecoder"            # the folder of configs/


@dataclass
class EmbeddingSpec:
    """What an object is: a vector, a row of a table or hashed (appendix B.3)."""
    length: int = 1024
    # 0: a table with one row for each object; otherwise the vector is put together from this many
    # codebooks of 2^bits entries each
    books: int = 0
    bits: int = 15

    def validate(self, section="embedding."):
        """Raise ConfigError unless the codebooks' entries make up the vector."""
        require_within(self, section, {"length": (1, 1 << 16), "books": (0, 1 << 12),
                                       "bits": (1, 24)})
        require(self.books == 0 or self.length % self.books == 0, section + "books", self.books,
                f"0, or a divisor of {section}length {self.length}")


@dataclass
class VolumeSpec:
    """The decoder: embedding to 4^3, 8^3 (the latent) and the volume of density and color."""
    side: int = 64              # voxels a side of the last volume
    channels: int = 512         # of the 4^3 volume; half as many after each doubling of the side
    depth: int = 4              # residual blocks at each side
    attention: List[int] = field(default_factory=lambda: [8, 16])   # sides with self-attention
    head_width: int = 64
    norm_groups: int = 32       # of a group norm, but at least 4 channels in each
    # channels besides density and color; 10 weights of moving parts for CelebV, which nothing here
    # trains or renders
    extra: int = 0

    @property
    def sides(self):
        """Return the sides after each doubling."""
        return [FIRST_SIDE << k for k in range(1, int(math.log2(self.side // FIRST_SIDE)) + 1)]

    def width(self, side):
        """Return the channels of the volume of that side."""
        return self.channels * FIRST_SIDE // side

    @property
    def latent_width(self):
        """Return the channels of the latent volume."""
        return self.width(LATENT_SIDE)

    def validate(self, section="volume."):
        """Raise ConfigError unless the widths fit norms and heads."""
        require(self.side in SIDES, section + "side", self.side,
                f"one of {', '.join(map(str, SIDES))}")
        require_positive(self, section, ["depth"], MAX_LAYERS)
        require_positive(self, section, ["channels", "head_width", "norm_groups"], 1 << 14)
        require_within(self, section, {"extra": (0, 1000)})
        unit = 4 * self.side // FIRST_SIDE
        require(self.channels % unit == 0, section + "channels", self.channels,
                f"a multiple of {unit}: 4 are the least after {section}side {self.side} is reached")
        require(set(self.attention) <= set(self.sides), section + "attention", self.attention,
                f"some of {self.sides}, the sides of volumes")
        for side in self.attention:
            require(self.width(side) % self.head_width == 0, section + "head_width",
                    self.head_width, f"a divisor of {self.width(side)}, the channels at side"
                    f" {side}, where there is attention")


@dataclass
class ConditionSpec:
    """What tells the denoiser which object is wanted: tokens, which its attention reads."""
    kind: str = ""              # "": nothing, "class", "image" or "text"
    labels: List[str] = field(default_factory=list)     # names of the classes, in their order
    tokens: int = 1             # of an image or a text; a class is one
    width: int = 0              # numbers in a token of an image or a text
    # the model of views whose CLIP tower makes the token of an image; its width is width
    tower: str = "sv3d_tiny"

    @property
    def shape(self):
        """Return (tokens, numbers in each) of a condition. A class is 1 at its own place."""
        return (1, len(self.labels)) if self.kind == "class" else (self.tokens, self.width)

    def validate(self, section="diffusion.condition."):
        """Raise ConfigError unless there are names for classes, and a width for tokens."""
        require_one_of(self.kind, section + "kind", CONDITIONS)
        require_within(self, section, {"tokens": (1, 4096), "width": (0, 1 << 16)})
        of_class, of_tokens = self.kind == "class", self.kind in ("image", "text")
        require(len(set(self.labels)) == len(self.labels), section + "labels", self.labels,
                "each name once")
        require(bool(self.labels) == of_class, section + "labels", self.labels,
                "names" if of_class else f"nothing for kind {self.kind!r}")
        require(bool(self.width) == of_tokens, section + "width", self.width,
                "more than 0" if of_tokens else f"0 for kind {self.kind!r}")
        require(self.tokens == 1 or self.kind == "text", section + "tokens", self.tokens,
                f"1 for kind {self.kind!r}")


@dataclass
class DiffusionSpec:
    """The latents' diffusion: ADM's UNet in three dimensions with EDM's preconditioning."""
    channels: int = 128
    multipliers: List[int] = field(default_factory=lambda: [3, 4])  # at sides 8, 4, ...
    depth: int = 2              # residual blocks at each side
    attention: List[int] = field(default_factory=lambda: [8, 4])    # sides with self-attention
    head_width: int = 64
    norm_groups: int = 32
    sigma_data: float = 0.5
    # What the bulk of the normalized latents has as standard deviation. The paper's formula gives 1
    # and its sigma_data is 0.5: the two fit if this is 0.5.
    latent_std: float = 0.5
    # normalized latents are clipped to this many robust standard deviations
    clip: float = 8.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    steps: int = 64             # of the sampler
    # of the stochastic sampler: noise that is added in all steps, the levels between which it is
    # added, and its standard deviation; churn 0 makes the sampler deterministic
    churn: float = 40.0
    churn_min: float = 0.05
    churn_max: float = 50.0
    churn_noise: float = 1.003
    # of a condition: 1 is the network as it was trained; the paper takes 3
    guidance: float = 3.0
    condition: ConditionSpec = field(default_factory=ConditionSpec)

    @property
    def sides(self):
        """Return the sides of the volumes, from the latent's down."""
        return [LATENT_SIDE >> k for k in range(len(self.multipliers))]

    def validate(self, section="diffusion."):
        """Raise ConfigError unless the widths fit norms and heads, and noise levels fall."""
        require_positive(self, section, ["channels", "head_width", "norm_groups", "multipliers"],
                         1 << 14)
        require_positive(self, section, ["depth"], MAX_LAYERS)
        require_positive(self, section, ["sigma_data", "latent_std", "clip", "sigma_min",
                                         "sigma_max", "rho", "churn_noise"], MAX_NUMBER)
        require_within(self, section, {"steps": (1, 10_000), "churn": (0, MAX_NUMBER),
                                       "churn_min": (0, MAX_NUMBER),
                                       "churn_max": (0, MAX_NUMBER),
                                       "guidance": (0, MAX_NUMBER)})
        self.condition.validate(section + "condition.")
        require(len(self.multipliers) <= 3, section + "multipliers", self.multipliers,
                f"at most 3: the latent's side is {LATENT_SIDE}")
        require(self.channels % 4 == 0, section + "channels", self.channels, "a multiple of 4")
        require(self.sigma_min < self.sigma_max, section + "sigma_min", self.sigma_min,
                f"less than {section}sigma_max {self.sigma_max}")
        require(set(self.attention) <= set(self.sides), section + "attention", self.attention,
                f"some of {self.sides}, the sides of volumes")
        for side, factor in zip(self.sides, self.multipliers):
            # the middle always attends
            if side in self.attention or side == self.sides[-1]:
                require(self.channels * factor % self.head_width == 0, section + "head_width",
                        self.head_width, f"a divisor of {self.channels * factor}, the channels at"
                        f" side {side}, where there is attention")


@dataclass
class AutodecoderSpec:
    """One autodecoder: its objects, networks and rays."""
    name: str = "autodecoder_chairs"
    objects: int = 15576        # how many have an embedding
    size: int = 128             # pixels a side of the views; the paper does not say
    samples: int = 128          # on a ray
    # camera poses that are learned along: one for each view of each object, or of all objects where
    # they share their cameras; 0: the given ones are right
    learned_cameras: int = 0
    embedding: EmbeddingSpec = field(default_factory=EmbeddingSpec)
    volume: VolumeSpec = field(default_factory=VolumeSpec)
    diffusion: DiffusionSpec = field(default_factory=DiffusionSpec)

    def validate(self):
        """Raise ConfigError naming the first field that no network can have."""
        for section in fields(self):
            part = getattr(self, section.name)
            if is_dataclass(part):
                part.validate()
        require_within(self, "", {"objects": (1, 1 << 31), "size": (8, 4096), "samples": (2, 1024),
                                  "learned_cameras": (0, 1 << 31)})


def load_autodecoder_spec(model, overrides=()):
    """Return the AutodecoderSpec of a name in configs/autodecoder, or of a YAML file.

    overrides: ["key=value", ...]. Raises ConfigError.
    """
    path = find_config(model, KIND)
    return build(AutodecoderSpec, read_mapping(path), path, overrides)
