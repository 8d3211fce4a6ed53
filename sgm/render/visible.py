"""The outer surface of a mesh: what cameras all around it see.

Many meshes that people made are open or have inner faces that nobody sees. Their surface is taken
to be what at least one of the cameras sees, and their volume what is left of space when everything
that a camera looks through is carved away.
"""
from __future__ import annotations

import numpy as np

from sgm.geometry.mesh import Mesh
from sgm.render.zbuffer import render_depths
from sgm.views.cameras import FOV_DEG, camera_to_world, focal_length, project

CAMERAS = 100
SIZE = 512              # pixels per side of the depth maps
TOLERANCE = 2.0         # pixels by which a point may lie behind what its pixel sees
MARGIN = 1.02           # of the sphere around the mesh, that all cameras see whole


class OuterSurface:
    """The depth maps of a mesh from cameras even on a sphere around it.

    Materials count: cameras look through the holes of a texture.
    """

    def __init__(self, mesh: Mesh, size: int = SIZE):
        used = mesh.vertices[np.unique(mesh.faces)].astype(np.float64)
        self.middle = (used.min(0) + used.max(0)) / 2
        radius = max(np.linalg.norm(used - self.middle, axis=1).max(), 1e-6)
        distance = MARGIN * radius / np.sin(np.radians(FOV_DEG / 2))
        self.tolerance = TOLERANCE * distance / focal_length(size)
        # a spiral from pole to pole: equal areas, azimuths by the golden angle
        k = np.arange(CAMERAS)
        elevations = np.degrees(np.arcsin(1 - (2 * k + 1) / CAMERAS))
        self.poses = camera_to_world(k * 137.50776405, elevations, distance)
        self.poses[:, :3, 3] += self.middle
        self.depths = render_depths(mesh, self.poses, size, FOV_DEG)

    def sees(self, points: np.ndarray) -> np.ndarray:
        """Return bool (N,): which of the points (N, 3) of the mesh a camera sees."""
        seen = np.zeros(len(points), bool)
        for pose, depth in zip(self.poses, self.depths):
            rest = np.flatnonzero(~seen)
            at, there = read_depths(pose, depth, points[rest])
            seen[rest[at <= there + self.tolerance]] = True
        return seen

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Return bool (N,): which points (N, 3) of space are on or behind the surface for all."""
        inside = np.ones(len(points), bool)
        for pose, depth in zip(self.poses, self.depths):
            rest = np.flatnonzero(inside)
            at, there = read_depths(pose, depth, points[rest])
            inside[rest[at < there]] = False
        return inside


def read_depths(pose: np.ndarray, depth: np.ndarray,
                points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the depths (N,) of points (N, 3), and of what a camera sees where they are.

    The latter is infinite where it sees nothing. pose (4, 4): camera-to-world; depth (size, size):
    the camera's map, of SV3D's field of view.
    """
    size = len(depth)
    pixels, at = project(points, pose, focal_length(size), size / 2, size / 2)
    inside = (at > 0) & (pixels >= 0).all(1) & (pixels < size).all(1)
    there = np.full(len(points), np.inf)
    column, row = pixels[inside].astype(int).T
    there[inside] = depth[row, column]
    return at, there
