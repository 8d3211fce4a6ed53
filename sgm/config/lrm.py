"""The configuration schema of a feed-forward reconstruction network, and the reader of its files.

The defaults are VFusion3D's network; a YAML file in `configs/lrm/` states only what differs.
"""
from dataclasses import dataclass, field, fields

from sgm.config.checks import require, require_one_of, require_positive, require_within
from sgm.config.yaml_reader import build, find_config, read_mapping

# Whose code the network follows: names of parameters, blocks, planes, density, rays.
FAMILIES = ("vfusion3d", "openlrm", "triposr")
MAX_NUMBER, MAX_LAYERS, MAX_SIDE = 1 << 16, 1000, 8192


@dataclass
class EncoderSpec:
    """Settings of the vision transformer that turns the image into tokens.

    image_size: pixels that its stored position embedding is of. The family says which code it
    follows: transformers' Dinov2Model, the original DINOv2 with registers, transformers' ViTModel.
    """
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    patch_size: int = 14
    image_size: int = 518
    registers: int = 0              # extra tokens of openlrm's encoder; they are left out again

    @property
    def grid(self):
        """Return the patches along one side of the stored position embedding."""
        return self.image_size // self.patch_size

    def validate(self, section="encoder."):
        """Raise ConfigError unless patches tile the image and heads the width."""
        names = [f.name for f in fields(self) if f.name != "registers"]
        require_positive(self, section, names, MAX_NUMBER)
        require_positive(self, section, ["layers"], MAX_LAYERS)
        require_within(self, section, {"registers": (0, MAX_NUMBER)})
        require(self.image_size % self.patch_size == 0, section + "patch_size", self.patch_size,
                f"a divisor of {section}image_size {self.image_size}")
        require(self.width % self.heads == 0, section + "heads", self.heads,
                f"a divisor of {section}width {self.width}")


@dataclass
class TriplaneSpec:
    """Settings of the transformer whose tokens become three planes of features.

    side: tokens along one side of a plane, of which each becomes upsampling x upsampling features;
    channels: of a feature; camera_width: of the embedded camera, which triposr has none of.
    """
    width: int = 1024
    layers: int = 16
    heads: int = 16
    side: int = 32
    channels: int = 80
    upsampling: int = 2
    camera_width: int = 1024

    @property
    def features_side(self):
        """Return the features along one side of a plane."""
        return self.upsampling * self.side

    def validate(self, section="triplane."):
        """Raise ConfigError unless the heads divide the width."""
        require_positive(self, section, [f.name for f in fields(self)], MAX_NUMBER)
        require_positive(self, section, ["layers"], MAX_LAYERS)
        require(self.width % self.heads == 0, section + "heads", self.heads,
                f"a divisor of {section}width {self.width}")


@dataclass
class DecoderSpec:
    """Settings of the network from features to density and color: its linear layers, their width.
    """
    width: int = 64
    layers: int = 4

    def validate(self, section="decoder."):
        """Raise ConfigError unless there is a first and a last layer."""
        require_positive(self, section, ["width"], MAX_NUMBER)
        require_within(self, section, {"layers": (2, MAX_LAYERS)})


@dataclass
class VolumeSpec:
    """Defaults of what is made of the planes.

    radius: half the side of the box that they fill; samples: on a ray, of which the families with
    two passes place half by the density of the other half; threshold: the activated density of the
    surface, as published; grid: points along a side of the box for it.
    """
    radius: float = 1.0
    samples: int = 128
    threshold: float = 1.0
    grid: int = 256

    def validate(self, section="volume."):
        """Raise ConfigError for values that give no surface or picture."""
        require_positive(self, section, ["radius", "threshold"], MAX_NUMBER)
        require_within(self, section, {"samples": (8, 4096), "grid": (4, 1024)})
        require(self.samples % 2 == 0, section + "samples", self.samples,
                "an even number: half of them in each pass")


@dataclass
class LrmSpec:
    """One feed-forward network: image_size is the pixels of a side of its input."""
    name: str = "vfusion3d"
    family: str = "vfusion3d"
    image_size: int = 512
    # of the published weights, named when a file is loaded
    license: str = "CC-BY-NC 4.0, non-commercial use only"
    # The network is told the elevation of its input, and its world is ours at twice the size:
    # upright, the input at azimuth 0, SV3D's camera. false: it assumes one canonical camera, and
    # what is seen from above comes out tilted.
    upright: bool = False
    # width of the hidden layer of the estimator of the input's elevation, by its tokens; 0: none
    elevation_width: int = 0
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    triplane: TriplaneSpec = field(default_factory=TriplaneSpec)
    decoder: DecoderSpec = field(default_factory=DecoderSpec)
    volume: VolumeSpec = field(default_factory=VolumeSpec)

    def validate(self):
        """Raise ConfigError naming the first value that no network can have."""
        require_one_of(self.family, "family", FAMILIES)
        for part in (self.encoder, self.triplane, self.decoder, self.volume):
            part.validate()
        require(self.encoder.patch_size <= self.image_size <= MAX_SIDE, "image_size",
                self.image_size,
                f"from encoder.patch_size {self.encoder.patch_size} to {MAX_SIDE}")
        require(self.family == "openlrm" or not self.encoder.registers, "encoder.registers",
                self.encoder.registers, "0: only openlrm's encoder has them")
        require(self.family == "triposr" or self.volume.radius == 1, "volume.radius",
                self.volume.radius, "1: the planes of vfusion3d and openlrm fill [-1, 1]^3")
        require_within(self, "", {"elevation_width": (0, MAX_NUMBER)})
        require(self.upright or not self.elevation_width, "elevation_width", self.elevation_width,
                "0: only a network of our own has it (upright: true)")
        require(self.family == "openlrm" or not self.upright, "upright", self.upright,
                "false: only openlrm's network may be told the elevation of its input")
        require(self.family != "triposr" or self.triplane.width % 32 == 0, "triplane.width",
                self.triplane.width, "a multiple of 32, the groups of triposr's norm")


def load_lrm_spec(name, overrides=()):
    """Return the LrmSpec of configs/lrm/<name>.yaml, or of a YAML file, with overrides.

    overrides: ["key=value", ...]. Raises ConfigError.
    """
    path = find_config(name, "lrm")
    return build(LrmSpec, read_mapping(path), path, overrides)
