"""The settings of `views_to_mesh.py`: the schema of `configs/mesh/*.yaml`."""
from dataclasses import dataclass, field, fields
from typing import List

from sgm.config.checks import require, require_one_of, require_within
from sgm.config.yaml_reader import build, find_config, read_mapping

ENCODINGS = ("dense", "hash")
FUSIONS = ("auto", "max", "deep", "hull")
CURES = ("auto", "always", "never")
MATTES = ("auto", "alpha", "rembg", "border")
FORMS = ("pixel", "latent")


@dataclass
class HullSpec:
    """The visual hull, where everything starts."""
    resolution: int = 96        # cells per side
    base: bool = True  # prior: the underside that no camera sees is flat (hull/flat_base.py)

    def validate(self, section="hull."):
        """Raise ConfigError for a number out of bounds."""
        require_within(self, section, {"resolution": (16, 256)})


@dataclass
class DisagreementSpec:
    """What is done about views that do not show one scene, as generated ones do not."""
    cure: str = "auto"          # auto (where exposures differ, see exposure.py), always, never
    exposure: bool = True       # views are brought to one exposure
    # cells per side of the grid of gray levels that is learned for each view, for highlights that
    # move with the camera (nerf/appearance.py); 0 = none. And the weight of their L1 penalty
    grid: int = 16
    weight: float = 0.3
    # a field that learns less of what is in single views: the most that nerf.resolutions (or
    # nerf.hash_finest), nerf.side and nerf.steps are then
    finest: int = 96
    side: int = 288
    steps: int = 200
    # these take the places of depth.truncation and depth.blur, unless blur is 0
    truncation: float = 0.1
    blur: float = 1.5
    deep: float = 0.02          # least depth.deep, also where only outlines disagree

    def validate(self, section="disagreement."):
        """Raise ConfigError for an unknown word or a number out of bounds."""
        require_one_of(self.cure, section + "cure", CURES)
        require_within(self, section, {
            "grid": (0, 64), "weight": (0, 1000), "truncation": (0.005, 0.2), "blur": (0, 5),
            "deep": (0, 0.5),
            "finest": (16, 4095), "side": (16, 4096), "steps": (1, 100_000)})


@dataclass
class NerfSpec:
    """The radiance field and its training."""
    encoding: str = "dense"     # "dense" grids, or Instant-NGP's "hash" grid
    # dense: cells per side of each level, and floats per entry
    resolutions: List[int] = field(default_factory=lambda: [16, 32, 64, 128])
    features: int = 4
    # hash: levels, floats per entry, 2^hash_log2 entries per level, cells per side of the first
    # and the last level
    hash_levels: int = 16
    hash_features: int = 2
    hash_log2: int = 17
    hash_coarsest: int = 16
    hash_finest: int = 1024
    width: int = 32             # width of the two hidden layers
    directional: bool = False   # color depends on the viewing direction (spherical harmonics)
    side: int = 384             # pixels of the longer side of the views that it is trained on
    steps: int = 400
    rays: int = 4096            # rays per step, a multiple of 4
    samples: int = 32           # samples per ray
    lr: float = 1e-2            # learning rate of Adam; decays exponentially to a tenth
    # weights of the losses; the photometric one has 1
    mask: float = 0.5
    distortion: float = 0.01
    depth: float = 0.0          # depth smoothness; rays then come in patches of 2 x 2
    tv: float = 0.0             # total variation of the dense levels' tables
    # share of the samples that go wherever the object may be; the others go where density is,
    # which preserves surfaces that came up too near a camera
    uniform: float = 1.0
    refresh: int = 25           # steps between two updates of the cached density
    preview_every: int = 100    # steps between two preview pictures; 0 = none
    save_every: int = 100       # steps between two checkpoints; 0 = only at the end

    def validate(self, section="nerf."):
        """Raise ConfigError for an unknown encoding or a number out of bounds."""
        require_one_of(self.encoding, section + "encoding", ENCODINGS)
        require(self.rays % 4 == 0, section + "rays", self.rays, "a multiple of 4")
        require(sum((r + 1) ** 3 for r in self.resolutions) < 1 << 24, section + "resolutions",
                self.resolutions, "fewer than 16 million vertices in all")
        require_within(self, section, {
            "resolutions": (1, 255), "features": (1, 16), "hash_levels": (1, 32),
            "hash_features": (1, 16), "hash_log2": (8, 19), "hash_coarsest": (1, 255),
            "hash_finest": (1, 4095), "width": (1, 256), "side": (16, 4096), "steps": (1, 100_000),
            "rays": (4, 1 << 16), "samples": (2, 512), "lr": (1e-6, 1), "mask": (0, 1000),
            "distortion": (0, 1000), "depth": (0, 1000), "tv": (0, 1000), "uniform": (0.01, 1),
            "refresh": (1, 100_000), "preview_every": (0, 100_000), "save_every": (0, 100_000)})


@dataclass
class DepthSpec:
    """From the field's depth maps to a signed distance (nerf/depth_fusion.py)."""
    fusion: str = "auto"  # how depth and hull are joined: max, deep, hull, or the best of them
    # cells per side of the distance, and of the tetrahedral grid; and of an object that has parts
    # which would be lost in so few
    resolution: int = 64
    finest: int = 96
    side: int = 192             # pixels of a depth map's longer side
    samples: int = 64           # samples per ray
    truncation: float = 0.03    # truncation of the fused distance, box units
    blur: float = 0.0           # standard deviation of the fused distance's blur, cells
    deep: float = 0.005         # "deep": depth counts where it is this far below the hull
    smooth: float = 0.6         # standard deviation of the last blur, cells
    # prior: a hollow that opens upwards continues below what is seen of it (hull/cavity.py)
    cavity: bool = True

    def validate(self, section="depth."):
        """Raise ConfigError for an unknown fusion or a number out of bounds."""
        require_one_of(self.fusion, section + "fusion", FUSIONS)
        require_within(self, section, {
            "resolution": (16, 128), "finest": (16, 128), "side": (32, 1024), "samples": (8, 512),
            "truncation": (0.005, 0.2), "blur": (0, 5), "deep": (0, 0.5), "smooth": (0, 3)})


@dataclass
class DMTetSpec:
    """The refinement of the surface; lists have one entry per stage."""
    # pixels of the views' longer side, views per step, steps
    sides: List[int] = field(default_factory=lambda: [288, 576])
    views: List[int] = field(default_factory=lambda: [2, 1])
    steps: List[int] = field(default_factory=lambda: [150, 50])
    # learning rates of the distances, box units, and of the color field
    lr: List[float] = field(default_factory=lambda: [1e-3, 3e-4])
    field_lr: float = 5e-3
    pixels: int = 32768         # pixels colored per step: all at outlines, random blocks elsewhere
    # share of these whose color and normal move the surface; 0 = only outlines do
    geometry: float = 0.5
    # weights of the losses; the photometric one has 1
    mask: float = 1.0
    smooth: float = 0.02        # bilateral smoothness of normals
    # weights of the distances' smoothing near the surface, in units of the data's own gradient
    laplacian: float = 1.0
    sign_change: float = 0.0
    damping: float = 0.3        # Adam's epsilon in the same units: what is hardly seen hardly moves
    follow: bool = True         # hidden parts move with what is around them (sdf_optimizer.py)
    blur: float = 1.0           # standard deviation of the blur of the distances' gradient, cells
    # farthest move of a grid vertex, cells: 0 = none, up to 1/6 nothing folds; and the learning
    # rate of its inverse hyperbolic tangent
    deformation: float = 0.0
    deformation_lr: float = 0.02
    preview_every: int = 50     # steps between two preview pictures; 0 = none
    save_every: int = 50        # steps between two checkpoints; 0 = only at the end

    def validate(self, section="dmtet."):
        """Raise ConfigError for a number out of bounds, or stages of different count."""
        require_within(self, section, {
            "sides": (16, 4096), "views": (1, 64), "steps": (0, 100_000), "lr": (1e-6, 0.1),
            "field_lr": (0, 1), "pixels": (256, 1 << 20), "geometry": (0, 1), "mask": (0, 1000),
            "smooth": (0, 1000), "laplacian": (0, 1000), "sign_change": (0, 1000),
            "damping": (0, 100), "blur": (0, 5), "deformation": (0, 0.45), "deformation_lr": (0, 1),
            "preview_every": (0, 100_000), "save_every": (0, 100_000)})
        for name in ("views", "steps", "lr"):
            count = len(getattr(self, name))
            require(count == len(self.sides), section + name, getattr(self, name),
                    f"one entry per stage like {section}sides, which has {len(self.sides)}")


@dataclass
class DistillSpec:
    """What a diffusion model adds where no view sees the surface (reconstruct/distill)."""
    # what is compared: pictures, or latents through the gradient of the encoder
    form: str = "pixel"
    share: float = 0.2          # share of the surface's steps, the last ones
    clips: int = 40             # most clips that the model is asked for; steps share them
    # weight of a pixel's squared error, that of the views being 1; it grows linearly from 0
    weight: float = 39.0
    # scale of the guidance, of every frame; 0: 3, or 1 for a model that samples without guidance
    guidance: float = 0.0
    # noise levels, drawn from within these bounds: at the first clip and at the last one
    sigma_first: List[float] = field(default_factory=lambda: [100.0, 400.0])
    sigma_last: List[float] = field(default_factory=lambda: [1.6, 200.0])
    # cosine of the best view's angle below which surface is unseen, and above which it is seen; and
    # the factor on errors where it is seen
    edges: List[float] = field(default_factory=lambda: [0.1, 0.5])
    floor: float = 0.2

    def count(self, steps):
        """Return how many clips the model is asked for; steps: those of a `DMTetSpec`."""
        return min(self.clips, round(self.share * sum(steps)))

    def validate(self, section="distill."):
        """Raise ConfigError for an unknown form, a number out of bounds, or bounds that are none.
        """
        require_one_of(self.form, section + "form", FORMS)
        require_within(self, section, {
            "share": (0, 1), "clips": (1, 100_000), "weight": (0, 1e6), "guidance": (0, 100),
            "sigma_first": (1e-3, 1e4), "sigma_last": (1e-3, 1e4), "edges": (-1, 1),
            "floor": (0, 1)})
        for name in ("sigma_first", "sigma_last", "edges"):
            value = getattr(self, name)
            require(len(value) == 2 and value[0] <= value[1], section + name, value,
                    "two numbers, the smaller one first")


@dataclass
class CleanSpec:
    """What is done to the surface before it gets a texture (sgm/geometry/cleaning.py)."""
    faces: int = 20_000         # budget of faces, kept if possible
    # parts of less than this share of the largest one's area are removed; above 1 all others
    floaters: float = 0.05

    def validate(self, section="clean."):
        """Raise ConfigError for a number out of bounds."""
        require_within(self, section, {"faces": (100, 2_000_000), "floaters": (0, 2)})


@dataclass
class TextureSpec:
    """The texture (sgm/reconstruct/texture)."""
    size: int = 1024            # texels per side
    padding: int = 3            # free texels around a chart
    refine: int = 12            # iterations of the least squares; 0 = none

    def validate(self, section="texture."):
        """Raise ConfigError for a number out of bounds."""
        require_within(self, section, {"size": (64, 8192), "padding": (0, 16), "refine": (0, 200)})


@dataclass
class LightSpec:
    """What of the views' brightness is the light's (sgm/reconstruct/light.py)."""
    use: bool = True            # it is found, and mesh.glb is a matt material of the albedo, lit
    bake: bool = False          # mesh.glb is unlit nevertheless: albedo times the light found


@dataclass
class MeshSpec:
    """Everything that views_to_mesh.py can be given in a file or with --set."""
    seed: int = 0
    side: int = 576             # pixels of the longer side that pictures are reduced to
    views: int = 120            # most views that are used
    # how pictures without alpha are cut out: auto, alpha, rembg, border
    matte: str = "auto"
    hold_out: int = 0           # every n-th view is held out, to be reported on; 0 = none
    hull: HullSpec = field(default_factory=HullSpec)
    disagreement: DisagreementSpec = field(default_factory=DisagreementSpec)
    nerf: NerfSpec = field(default_factory=NerfSpec)
    depth: DepthSpec = field(default_factory=DepthSpec)
    dmtet: DMTetSpec = field(default_factory=DMTetSpec)
    distill: DistillSpec = field(default_factory=DistillSpec)
    clean: CleanSpec = field(default_factory=CleanSpec)
    light: LightSpec = field(default_factory=LightSpec)
    texture: TextureSpec = field(default_factory=TextureSpec)

    def validate(self):
        """Raise ConfigError naming the first key that is out of bounds."""
        require_within(self, "", {"seed": (0, 2 ** 32 - 1), "side": (32, 2048), "views": (3, 1000),
                                  "hold_out": (0, 1000)})
        require(self.hold_out != 1, "hold_out", self.hold_out,
                "0 (none), or 2 and more (every n-th view)")
        require_one_of(self.matte, "matte", MATTES)
        for item in fields(self):
            section = getattr(self, item.name)
            if hasattr(section, "validate"):
                section.validate()


def load_mesh_spec(name="default", overrides=()):
    """Return the settings of configs/mesh/<name>.yaml, or of a YAML file, with overrides.

    overrides: ["key=value", ...]. Raises ConfigError.
    """
    path = find_config(name, "mesh")
    return build(MeshSpec, read_mapping(path), path, overrides)
