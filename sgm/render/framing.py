"""An object's size, and the distance at which cameras see all of it."""
from __future__ import annotations

import numpy as np

from sgm.geometry.mesh import Mesh, MeshError
from sgm.views.cameras import DISTANCE, FOV_DEG, Orbit


def normalized(mesh: Mesh, fit: str = "box") -> Mesh:
    """Return the mesh centered at the origin, scaled by `fit`.

    'box': the longest side of the bounding box is 1; 'sphere': the radius is 0.5.
    """
    used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
    low, high = used.min(0), used.max(0)
    center = (low + high) / 2
    size = (high - low).max() if fit == "box" else 2 * np.linalg.norm(used - center, axis=1).max()
    if fit not in ("box", "sphere"):
        raise MeshError(f"fit is {fit!r}; expected box or sphere")
    if size <= 0:
        raise MeshError("all vertices of the mesh are at one place")
    matrix = np.diag([1 / size, 1 / size, 1 / size, 1])
    matrix[:3, 3] = -center / size
    return mesh.transformed(matrix)


def viewing_distance(mesh: Mesh, orbit: Orbit, margin: float = 0.95,
                     fov_deg: float = FOV_DEG) -> float:
    """Return the least camera distance, at least 2, from which every view shows the whole mesh.

    margin: the part of the frame's width and height that may be filled. A point p is inside the
    frame of a camera at distance d with axes (right, up, backward) if max(|p.right|, |p.up|) <=
    margin tan(fov / 2) (d - p.backward).
    """
    axes = orbit.poses(1.0)[:, :3, :3]
    local = np.einsum("vi,tij->tvj", mesh.vertices[np.unique(mesh.faces)].astype(np.float64), axes)
    needed = local[...,
                   2] + np.abs(local[..., :2]).max(-1) / (margin * np.tan(np.radians(fov_deg) / 2))
    return max(DISTANCE, float(needed.max()))
