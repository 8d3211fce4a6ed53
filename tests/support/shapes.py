"""Views of shapes in closed form."""
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from sgm.geometry.mesh import Mesh, merge
from sgm.reconstruct.posed_views import PosedViews
from sgm.render.zbuffer import render_views
from sgm.views.cameras import FOV_DEG, Orbit, focal_length

SIDE, FOCAL, DISTANCE, REACH = 96, 158.0, 2.0, 0.6


def views_of(signed_distance, orbit, center=(0.0, 0.0, 0.0), size=1.0):
    """Views of a shape, given as a function of points in its own frame, traced densely along rays; gray on nothing.

    The shape lies within REACH of its center, so what is farther away need not be looked at. Nowhere does its function
    change faster than distances do.
    """
    poses = orbit.poses(DISTANCE)
    mask = _masks(signed_distance, poses.tobytes()).copy()
    poses[:, :3, 3] = poses[:, :3, 3] * size + np.asarray(center, float)
    return PosedViews(0.5 * np.repeat(mask[..., None], 3, axis=-1), mask, poses, FOCAL, FOCAL, SIDE / 2, SIDE / 2,
                      files=tuple(f"{k:03d}.png" for k in range(len(mask))))


@cache
def _masks(signed_distance, poses):
    """Masks (V, SIDE, SIDE) float32 by the bytes of poses (V, 4, 4): tests share them."""
    poses = np.frombuffer(poses).reshape(-1, 4, 4)
    mask = np.zeros((len(poses), SIDE, SIDE), np.float32)
    empty = PosedViews(np.repeat(mask[..., None], 3, axis=-1), mask, poses, FOCAL, FOCAL, SIDE / 2, SIDE / 2)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    t = np.linspace(DISTANCE - 1, DISTANCE + 1, 240)
    t = t[np.abs(t - DISTANCE) < REACH, None, None]
    for k in range(len(poses)):
        origins, directions = empty.rays(np.full(len(rows), k), rows, columns)
        near = np.linalg.norm(np.cross(origins, directions), axis=-1) < REACH
        origins, directions = origins[near], directions[near]
        least = signed_distance(origins + t[::8] * directions).min(0)
        unsure = (least >= 0) & (least < t[8, 0, 0] - t[0, 0, 0])       # the samples between have to tell
        least[unsure] = signed_distance(origins[unsure] + t * directions[unsure]).min(0)
        mask[k, rows[near], columns[near]] = least < 0
    return mask


@cache
def ball(radius):
    return lambda p: np.linalg.norm(p, axis=-1) - radius


def cylinder(p):
    """Upright, radius 0.3, from z = -0.4 to 0.4, with a knob at +x so that azimuths have a sign with that at +y."""
    side = np.maximum(np.hypot(p[..., 0], p[..., 1]) - 0.3, np.abs(p[..., 2]) - 0.4)
    knobs = [np.linalg.norm(p - at, axis=-1) - r for at, r in (((0.4, 0, 0.2), 0.12), ((0, 0.38, -0.15), 0.08))]
    return np.minimum(side, np.minimum(*knobs))


def oval(p):
    """Upright, an ellipse of radii 0.42 and 0.22 from z = -0.4 to 0.4, with a knob at +y."""
    side = np.maximum(0.22 * (np.hypot(p[..., 0] / 0.42, p[..., 1] / 0.22) - 1), np.abs(p[..., 2]) - 0.4)
    return np.minimum(side, np.linalg.norm(p - (0, 0.3, 0.2), axis=-1) - 0.1)


def chair_views(elevation, count=8, side=48, nearer=1.0):
    """Rendered views of a static orbit about a seat with a back at -x and a leg below a corner.

    It tells azimuth and elevation. nearer: factors of the distance, of all views or (count,); from 0.7 on it is cut off.
    """
    blocks = [((-0.4, -0.3, -0.06), (0.4, 0.3, 0.06)), ((-0.4, -0.3, -0.06), (-0.3, 0.3, 0.4)), ((0.3, 0.2, -0.4), (0.4, 0.3, 0))]
    return rendered([trimesh.creation.box(bounds=block) for block in blocks], elevation, count, side, nearer)


def rendered(parts, elevation, count=8, side=48, nearer=1.0):
    """Views of a static orbit about gray parts, trimesh's."""
    mesh = merge([Mesh(part.vertices, part.faces, colors=np.full((len(part.vertices), 3), 0.5, np.float32)) for part in parts])
    poses, focal = Orbit.static(elevation, count).poses(DISTANCE), focal_length(side)
    poses[:, :3, 3] *= np.resize(nearer, count)[:, None]
    rgba = render_views(mesh, poses, side, FOV_DEG).astype(np.float32) / 255
    return PosedViews(rgba[..., :3] * rgba[..., 3:], np.ascontiguousarray(rgba[..., 3]), poses, focal, focal, side / 2, side / 2,
                      files=tuple(Path(f"{k:03d}.png") for k in range(count)))


def off(views, true):
    """Degrees by which the cameras of views are turned, and how far they are away, (V,) each."""
    traces = np.einsum("vij,vij->v", views.c2w[:, :3, :3], true.c2w[:, :3, :3])
    return (np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1))),
            np.linalg.norm(views.c2w[:, :3, 3] - true.c2w[:, :3, 3], axis=1))


def shaken(views, degrees, distance, seed=0):
    """The views with cameras turned about axes drawn at random, and moved in such directions."""
    rng, c2w = np.random.RandomState(seed), views.c2w.copy()
    axes, moves = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, len(views), 3)))
    c2w[:, :3, :3] = Rotation.from_rotvec(np.radians(degrees) * axes).as_matrix() @ c2w[:, :3, :3]
    c2w[:, :3, 3] += distance * moves
    return replace(views, c2w=c2w)
