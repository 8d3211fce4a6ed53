"""The families of procedural objects, and which object a name stands for."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sgm.common.cli import MAX_SEED
from sgm.geometry.mesh import Mesh
from sgm.render import procedural
from sgm.render.families import one_sided

HALF_TURN = "half_turn"
FAMILIES = {HALF_TURN: procedural, "one_sided": one_sided}


@dataclass(frozen=True)
class ProceduralObject:
    """The object of a family, one of FAMILIES, that a seed makes."""
    seed: int
    family: str = HALF_TURN

    @property
    def name(self) -> str:
        """Return the seed, 0000012, or one_sided-0000012 of a family other than the first."""
        return f"{self.seed:07d}" if self.family == HALF_TURN else f"{self.family}-{self.seed:07d}"

    @property
    def kind(self) -> str:
        """Return its kind, one of its family's KINDS."""
        return FAMILIES[self.family].kind_of(self.seed)

    def load(self) -> Mesh:
        """Return the mesh, z up, its farthest point 0.5 from the origin."""
        return FAMILIES[self.family].make_object(self.seed)


def procedural_object(name: str) -> ProceduralObject | None:
    """Return the object that has this name in a rendered set, or None if none is called so."""
    found = re.fullmatch(r"(?:([a-z_]+)-)?([0-9]+)", name)
    if not found or found[1] == HALF_TURN or found[1] and found[1] not in FAMILIES:
        return None
    seed = int(found[2])
    return ProceduralObject(seed, found[1] or HALF_TURN) if seed <= MAX_SEED else None


def trained_kinds(family: str) -> tuple[str, ...]:
    """Return the kinds of a family that may be trained on."""
    held_out = FAMILIES[family].HELD_OUT
    return tuple(kind for kind in FAMILIES[family].KINDS if kind not in held_out)


def objects_of(family: str, kinds: tuple[str, ...] | None,
               first: int) -> Iterator[ProceduralObject]:
    """Yield the objects of the seeds from first on, or those among them of some kinds."""
    for seed in range(first, MAX_SEED + 1):
        each = ProceduralObject(seed, family)
        if kinds is None or each.kind in kinds:
            yield each
