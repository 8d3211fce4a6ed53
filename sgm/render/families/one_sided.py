"""Procedural objects with a front and a back: half a turn does not leave them as they are.

They are the second family: what the input view hides does not follow from what it shows, but from
knowing the kind. The front may be anywhere. Kinds that are HELD_OUT are never trained on.
"""
from __future__ import annotations

import numpy as np

from sgm.geometry.mesh import Mesh, merge
from sgm.render.families.household import (
    armchair,
    boot,
    chair,
    lamp,
    mug,
    teapot,
    watering_can,
)
from sgm.render.families.moving import aeroplane, animal, car, locomotive, ship
from sgm.render.framing import normalized
from sgm.render.primitives import rotated
from sgm.render.procedural import palette

_KINDS = (mug, teapot, watering_can, lamp, chair, armchair, boot, car, locomotive, ship, aeroplane,
          animal)
KINDS = tuple(kind.__name__ for kind in _KINDS)
HELD_OUT = ("animal",)


def make_object(seed: int) -> Mesh:
    """Return the object of a seed (50-2000 triangles), z up.

    Its bounding box is centered, its farthest point 0.5 from the origin. It is turned about z by
    any angle, and up to 15 % longer or shorter along each axis.
    """
    rng, kind = _begun(seed)
    mesh = merge(_KINDS[kind](rng, palette(rng)))
    mesh = mesh.transformed(np.diag([*rng.uniform(0.87, 1.15, 3), 1.0]))
    return rotated(normalized(mesh, "sphere"), rng.uniform(0, 360))


def kind_of(seed: int) -> str:
    """Return the kind of the object of a seed, one of KINDS."""
    return KINDS[_begun(seed)[1]]


def _begun(seed):
    """Return the stream of a seed's object, and the place of its kind in KINDS."""
    rng = np.random.RandomState((seed, 1))      # another stream than that of the first family
    return rng, rng.randint(len(KINDS))
