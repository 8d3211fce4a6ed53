"""The settings of the surface's refinement (dmtet.py); lengths of two stages, the coarse and the fine one, side by side."""
from dataclasses import dataclass, field
from typing import List

from sgm.config import ConfigError, shown

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
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            numbers = value if isinstance(value, list) else [value]
            if not numbers or not all(low <= number <= high for number in numbers):
                raise ConfigError(f"{section}{name}: found {shown(value)}, expected"
                                  f" {'numbers' if isinstance(value, list) else 'a number'} from {low:g} to {high:g}")
        for name in ("views", "steps", "lr"):
            if len(getattr(self, name)) != len(self.sides):
                raise ConfigError(f"{section}{name}: found {len(getattr(self, name))} entries, expected one per stage like"
                                  f" {section}sides, which has {len(self.sides)}")
