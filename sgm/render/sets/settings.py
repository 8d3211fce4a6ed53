"""What all orbits of a set have in common."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from sgm.geometry.zipped import ZippedMesh
from sgm.render.catalogue import CatalogueObject
from sgm.render.degradation import Degradation
from sgm.render.families.named import HALF_TURN, ProceduralObject

# progress(done, total, failure): objects that are finished, of how many, and (name, reason) of one
# that just failed, or None
Progress = Callable[[int, int, "tuple[str, str] | None"], None]

# where an object comes from: a mesh file, one within an archive, or what builds or loads itself
Source = ProceduralObject | str | ZippedMesh | CatalogueObject
Item = tuple[str, Source]           # its name, and that


@dataclass(frozen=True)
class OrbitSettings:
    """What all orbits of a set have in common; recorded in its render.json."""
    # objects: "procedural" by seed, "meshes" from files, or those of the "catalogue"
    kind: str = "procedural"
    family: str = HALF_TURN         # procedural only: one of sgm.render.families.named.FAMILIES
    kinds: tuple[str, ...] | None = None    # procedural only: kinds of it, None all
    size: int = 576                 # pixels per side
    frames: int = 21                # views per orbit
    # "static": constant elevation; "dynamic": the random orbits of SV3D's paper; "rings": the same
    # 36 cameras for all objects
    orbit: str = "static"
    elevation: tuple[float, float] = (-5.0, 30.0)   # range of the input view's elevation, degrees
    # "fixed": the same lights for all objects; "varied": soft lights of each object's own
    lighting: str = "fixed"
    supersample: int = 2            # samples per pixel and side
    seed: int = 0                   # draws elevations, orbits, lights and variations
    up: str | None = None           # meshes only: up axis of the files, "auto", "y" or "z"
    # meshes only: "box" scales the longest side to 1, "sphere" the radius to 0.5
    fit: str | None = None
    variations: int | None = None   # varied forms of each object, instead of the object itself
    degrade: Degradation | None = None      # faults of generated views

    def record(self) -> dict:
        """Return the settings as render.json holds them."""
        values = {name: list(value) if name == "kinds" else value
                  for name, value in asdict(self).items() if value is not None}
        if self.family == HALF_TURN:        # as in sets from before there was another
            del values["family"]
        return values | {"elevation": [float(bound) for bound in self.elevation]}
