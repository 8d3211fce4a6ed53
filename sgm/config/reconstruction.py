"""The settings of `views_to_mesh.py`: the schema of `configs/mesh/*.yaml`."""
from dataclasses import dataclass, field, fields
from typing import List

from sgm.config.checks import require, require_within
from sgm.config.yaml_reader import ConfigError, build, find_config, read_mapping

_BOUNDS = {
    "sides": (16, 4096), "views": (1, 64), "steps": (0, 100_000), "lr": (1e-6, 0.1), "field_lr": (0, 1),
    "pixels": (256, 1 << 20),
    "geometry": (0, 1), "mask": (0, 1000), "smooth": (0, 1000), "laplacian": (0, 1000), "sign_change": (0, 1000),
    "damping": (0, 100), "blur": (0, 5), "deformation": (0, 0.45), "deformation_lr": (0, 1),
    "preview_every": (0, 100_000), "save_every": (0, 100_000),
}


@dataclass
class DMTetSpec:
    """Lists have one entry per stage."""
    sides: List[int] = field(default_factory=lambda: [288, 576])    # pixels of the views' longer side
    views: List[int] = field(default_factory=lambda: [2, 1])        # views per step
    steps: List[int] = field(default_factory=lambda: [150, 50])
    lr: List[float] = field(default_factory=lambda: [1e-3, 3e-4])   # of the distances, box units
    field_lr: float = 5e-3                      # of the colour field
    pixels: int = 32768                         # coloured per step: all at outlines, and of the others blocks at random
    geometry: float = 0.5                       # share of these whose colour and normal move the surface; 0 = outlines only
    mask: float = 1.0                           # weights of the losses; the photometric one has 1
    smooth: float = 0.02                        # bilateral smoothness of normals
    laplacian: float = 1.0                      # of the distances near the surface, in units of the data's own gradient
    sign_change: float = 0.0                    # likewise
    damping: float = 0.3                        # Adam's epsilon, in the same units: what is hardly seen hardly moves
    follow: bool = True                         # hidden parts go along with what is around them (descent.py)
    blur: float = 1.0                           # standard deviation in cells of the blur of the distances' gradient
    deformation: float = 0.0                    # farthest move of a grid vertex in cells; 0 = none, 1/6 folds nothing
    deformation_lr: float = 0.02                # of its inverse hyperbolic tangent
    preview_every: int = 50                     # steps between two preview pictures; 0 = none
    save_every: int = 50                        # steps between two checkpoints; 0 = none

    def validate(self, section="dmtet."):
        """Raise ConfigError for a number out of bounds, or stages of different count."""
        require_within(self, section, _BOUNDS)
        for name in ("views", "steps", "lr"):
            if len(getattr(self, name)) != len(self.sides):
                raise ConfigError(f"{section}{name}: found {len(getattr(self, name))} entries, expected one per stage like"
                                  f" {section}sides, which has {len(self.sides)}")


ENCODINGS = ("dense", "hash")
FUSIONS = ("auto", "max", "deep", "hull")
ATLASES = ("auto", "own", "xatlas")
MATTES = ("auto", "alpha", "rembg", "border")


@dataclass
class HullSpec:
    """The visual hull, where everything starts."""
    resolution: int = 96                        # cells per side
    base: bool = True                           # prior: what no camera sees from below is flat

    def validate(self, section="hull."):
        """Raise ConfigError for a number out of bounds."""
        require_within(self, section, {"resolution": (16, 256)})


@dataclass
class NerfSpec:
    """The radiance field and its training (nerf.py)."""
    encoding: str = "dense"                     # "dense" grids, or Instant-NGP's "hash" grid
    resolutions: List[int] = field(default_factory=lambda: [16, 32, 64, 128])   # dense: cells per side of each level
    features: int = 4                           # dense: floats per entry
    hash_levels: int = 16
    hash_features: int = 2
    hash_log2: int = 17                         # 2^this entries per hashed level
    hash_coarsest: int = 16                     # cells per side of the first and the last level
    hash_finest: int = 1024
    width: int = 32                             # of the two hidden layers
    directional: bool = False                   # colour depends on the viewing direction (spherical harmonics)
    side: int = 384                             # pixels of the longer side that it is trained on
    steps: int = 400
    rays: int = 4096                            # per step, a multiple of 4
    samples: int = 32                           # per ray
    lr: float = 1e-2                            # Adam; decays exponentially to a tenth
    mask: float = 0.5                           # weights of the losses; the photometric one has 1
    distortion: float = 0.01
    depth: float = 0.0                          # depth smoothness; rays then come in patches of 2 x 2
    tv: float = 0.0                             # total variation of the dense levels' tables
    uniform: float = 1.0                        # share of the samples that go wherever the object may be; the others go where
                                                # density is, which holds on to surfaces that came up too near a camera
    refresh: int = 25                           # steps between two looks at where the density is
    preview_every: int = 100                    # steps between two preview pictures; 0 = none
    save_every: int = 100                       # steps between two checkpoints; 0 = none

    def validate(self, section="nerf."):
        """Raise ConfigError for an unknown encoding or a number out of bounds."""
        require(self.encoding in ENCODINGS, section + "encoding", self.encoding, f"one of {', '.join(ENCODINGS)}")
        require(self.rays % 4 == 0, section + "rays", self.rays, "a multiple of 4")
        require(sum((r + 1) ** 3 for r in self.resolutions) < 1 << 24, section + "resolutions", self.resolutions,
                 "fewer than 16 million vertices in all")
        require_within(self, section, {
            "resolutions": (1, 255), "features": (1, 16), "hash_levels": (1, 32), "hash_features": (1, 16),
            "hash_log2": (8, 19), "hash_coarsest": (1, 255), "hash_finest": (1, 4095), "width": (1, 256), "side": (16, 4096),
            "steps": (1, 100_000), "rays": (4, 1 << 16), "samples": (2, 512), "lr": (1e-6, 1), "mask": (0, 1000),
            "distortion": (0, 1000), "depth": (0, 1000), "tv": (0, 1000), "uniform": (0.01, 1), "refresh": (1, 100_000),
            "preview_every": (0, 100_000), "save_every": (0, 100_000)})


@dataclass
class DepthSpec:
    """From the field's depth maps to a signed distance (depth.py)."""
    fusion: str = "auto"                        # how depth and hull are joined: "max", "deep", "hull", or the best of them
    resolution: int = 64                        # cells per side of the distance, and of the tetrahedral grid
    side: int = 192                             # pixels of a depth map's longer side
    samples: int = 64                           # per ray
    truncation: float = 0.03                    # of the fused distance, box units
    deep: float = 0.02                          # "deep": depth counts where it is this far below the hull
    smooth: float = 0.6                         # standard deviation of the last blur, cells
    cavity: bool = True                         # prior: open hollows go on below what is seen of them, see cavity.py

    def validate(self, section="depth."):
        """Raise ConfigError for an unknown fusion or a number out of bounds."""
        require(self.fusion in FUSIONS, section + "fusion", self.fusion, f"one of {', '.join(FUSIONS)}")
        require_within(self, section, {"resolution": (16, 128), "side": (32, 1024), "samples": (8, 512), "truncation": (0.005, 0.2),
                                "deep": (0, 0.5), "smooth": (0, 3)})


@dataclass
class CleanSpec:
    """What is done to the surface before it gets a texture (clean.py)."""
    faces: int = 20_000                         # at most, if that can be had
    floaters: float = 0.05                      # parts of less than this share of the largest one's area go

    def validate(self, section="clean."):
        """Raise ConfigError for a number out of bounds."""
        require_within(self, section, {"faces": (100, 2_000_000), "floaters": (0, 2)})


@dataclass
class TextureSpec:
    """The texture (texture.py)."""
    size: int = 1024                            # texels per side
    padding: int = 3                            # free texels around a chart
    atlas: str = "auto"                         # how the surface is unwrapped: own, xatlas, or that if it is installed
    refine: int = 12                            # iterations of the least squares; 0 = none

    def validate(self, section="texture."):
        """Raise ConfigError for an unknown atlas or a number out of bounds."""
        require(self.atlas in ATLASES, section + "atlas", self.atlas, f"one of {', '.join(ATLASES)}")
        require_within(self, section, {"size": (64, 8192), "padding": (0, 16), "refine": (0, 200)})


@dataclass
class MeshSpec:
    """Everything that views_to_mesh.py can be told in a file or with --set."""
    seed: int = 0
    side: int = 576                             # pixels of the longer side that pictures are read with
    views: int = 120                            # at most so many of them
    matte: str = "auto"                         # how pictures without alpha are cut out: auto, alpha, rembg, border
    hold_out: int = 0                           # every n-th view is not used but reported on; 0 = none
    hull: HullSpec = field(default_factory=HullSpec)
    nerf: NerfSpec = field(default_factory=NerfSpec)
    depth: DepthSpec = field(default_factory=DepthSpec)
    dmtet: DMTetSpec = field(default_factory=DMTetSpec)
    clean: CleanSpec = field(default_factory=CleanSpec)
    texture: TextureSpec = field(default_factory=TextureSpec)

    def validate(self):
        """Raise ConfigError naming the first key that is out of bounds."""
        require_within(self, "", {"seed": (0, 2 ** 32 - 1), "side": (32, 2048), "views": (3, 1000), "hold_out": (0, 1000)})
        require(self.hold_out != 1, "hold_out", self.hold_out, "0 (none), or 2 and more (every n-th view)")
        require(self.matte in MATTES, "matte", self.matte, f"one of {', '.join(MATTES)}")
        for item in fields(self):
            section = getattr(self, item.name)
            if hasattr(section, "validate"):
                section.validate()


def load_mesh_spec(name="default", overrides=()):
    """The settings of configs/mesh/<name>.yaml, or of a YAML file, with ``key=value`` overrides. Raises ConfigError."""
    path = find_config(name, "mesh")
    return build(MeshSpec, read_mapping(path), path, overrides)
