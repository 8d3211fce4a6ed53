"""Renders one object of a set: its orbit, its lights, its views."""
from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from sgm.geometry.mesh import Mesh
from sgm.geometry.mesh_reader import load_mesh
from sgm.geometry.zipped import ZippedMesh
from sgm.render.catalogue import CatalogueObject
from sgm.render.families.named import ProceduralObject
from sgm.render.framing import normalized, viewing_distance
from sgm.render.sets.settings import OrbitSettings, Source
from sgm.render.variation import variation_of
from sgm.render.zbuffer import SOFT, STUDIO, Lighting, render_views
from sgm.views.cameras import DISTANCE, FOV_DEG, Orbit, position


def orbit_of(name: str, settings: OrbitSettings) -> Orbit:
    """Return the object's own orbit, drawn from the seed and the name.

    Its elevation is uniform in the range.
    """
    if settings.orbit == "rings":
        return Orbit.rings()
    rng = np.random.RandomState(_seed_of(f"{settings.seed}/{name}"))
    elevation = round(float(rng.uniform(*settings.elevation)), 3)
    if settings.orbit == "static":
        return Orbit.static(elevation, settings.frames)
    return Orbit.dynamic(int(rng.randint(2 ** 31 - 1)), elevation, settings.frames)


def _seed_of(text: str) -> int:
    # names of files need not be text
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def lighting_of(name: str, settings: OrbitSettings, usual: Lighting) -> Lighting:
    """Return the object's lights: the usual ones, or varied ones, which stay soft.

    The key light stands 20 to 75 degrees high at any azimuth, the fill light lower and 100 to 260
    degrees further round. Strengths are the usual ones times 0.75 to 1.25 (key), 0.5 to 2 (fill,
    sky), 0.85 to 1.1 (ambient).
    """
    if settings.lighting == "fixed":
        return usual
    rng = np.random.RandomState(_seed_of(f"{settings.seed}/{name}/light"))
    azimuth, high, low = rng.uniform(0, 360), rng.uniform(20, 75), rng.uniform(0, 30)
    across = azimuth + rng.uniform(100, 260)
    key, fill, sky, ambient = rng.uniform((0.75, 0.5, 0.5, 0.85), (1.25, 2, 2, 1.1))
    return Lighting(ambient * usual.ambient, key * usual.key, tuple(position(azimuth, high, 1.0)),
                    fill * usual.fill, tuple(position(across, low, 1.0)), sky * usual.sky)


@dataclass(frozen=True)
class Rendered:
    """The views (T, H, W, 4) uint8 of an object, and how they were made."""
    views: np.ndarray
    mesh: Mesh
    orbit: Orbit
    distance: float
    lighting: Lighting


def rendered(name: str, mesh: Mesh, settings: OrbitSettings) -> Rendered:
    """Render the object `name`, whose mesh `load_object` returned."""
    orbit, distance, lighting = orbit_of(name, settings), DISTANCE, SOFT
    variation = variation_of(name, settings.seed) if settings.variations else None
    if settings.kind != "procedural":
        mesh = normalized(variation.of_mesh(mesh) if variation else mesh, settings.fit)
        distance, lighting = viewing_distance(mesh, orbit), STUDIO
    lighting = lighting_of(name, settings, lighting)
    views = render_views(mesh, orbit.poses(distance), settings.size, FOV_DEG,
                         supersample=settings.supersample, lighting=lighting)
    return Rendered(variation.of_colors(views) if variation else views, mesh, orbit, distance,
                    lighting)


def load_object(source: Source, up: str | None) -> Mesh:
    """Return the mesh of an object, z up. Raises MeshError."""
    if isinstance(source, (ProceduralObject, CatalogueObject)):
        return source.load()
    return source.load(up) if isinstance(source, ZippedMesh) else load_mesh(source, up)
