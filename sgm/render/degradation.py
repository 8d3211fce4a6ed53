"""Orbits with the faults of generated ones, from scenes whose truth is known.

A generated orbit shows no one scene from exact cameras. Here a rendered one is given the same
faults: highlights of a light that moves with the camera, brightness and hue that drift along the
orbit, smooth warps of each view, a thin part that is missing in some views, and cameras written at
another elevation than the true one. All is drawn from one random generator.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import ndimage

from sgm.geometry.mesh import Mesh, linear_from_srgb, srgb_from_linear
from sgm.render.zbuffer import Lighting, render_views
from sgm.views.cameras import FOV_DEG, Orbit, focal_length, project

SMOOTHING = 1.5     # frames: standard deviation of what smooths drift and warps along the orbit
CONTROL = 6         # points per side whose displacements a view's warp is interpolated from
BORDER = 0.1        # share of the picture's side over which a warp fades to nothing
GROWTH = 3          # frames from the input view, over which warps grow to their full strength

# The search for a thin part, in a hull of voxels: cells per side of the unit cube and its margin,
# pixels per side of the outlines, radius of the ball that a part must not hold, and by how much it
# must stand out beyond what holds the ball, all but the pixels in cells.
CELLS, HALF, PIXELS, THIN, REACH = 72, 0.55, 144, 3.0, 3.0
MOST_AREA = 0.2     # share of the surface above which a part is no detail


@dataclass(frozen=True)
class Degradation:
    """How strong each fault is; 0 leaves it out.

    The values make hull coverage and color residual those of genuine orbits, see docs/mesh.md.
    """
    gloss: float = 0.4          # linear light in the middle of a highlight
    sharpness: float = 15.0     # power of the cosine that a highlight falls off with
    # standard deviations over the views of the natural logarithm of linear light: of all channels,
    # and of each about them
    brightness: float = 0.12
    hue: float = 0.02
    warp: float = 0.003         # root mean square displacement, share of the picture's side
    missing: float = 0.15       # share of the views without the thin part
    elevation: float = 5.0      # degrees between written and true cameras


def degraded_orbit(mesh: Mesh, orbit: Orbit, distance: float, size: int, lighting: Lighting,
                   supersample: int, strength: Degradation, rng) -> tuple[np.ndarray, Orbit]:
    """Return an orbit's views (T, size, size, 4) uint8 with faults, and the cameras to write.

    The views are sRGB with straight alpha, seen from `orbit` at `distance`; the cameras to write
    are lower or higher by `strength.elevation` degrees. The input view, the last, has highlights
    but neither drift nor warp, and is complete. rng: numpy.random.RandomState.
    """
    sign = rng.choice((-1, 1))
    written = replace(
        orbit, elevations_deg=np.clip(orbit.elevations_deg + sign * strength.elevation, -89, 89))
    to_side, to_top = rng.uniform(0.2, 0.8) * rng.choice((-1, 1)), rng.uniform(0.2, 0.8)
    glossy = replace(lighting, gloss=strength.gloss, sharpness=strength.sharpness,
                     gloss_direction=(to_side, to_top, 1.0))
    # the scene, without the thin part in some views
    count = len(orbit)
    poses = orbit.poses(distance)
    views = render_views(mesh, poses, size, FOV_DEG, supersample=supersample, lighting=glossy)
    absent = rng.permutation(count - 1)[:round(strength.missing * count)]
    thin = thin_part(mesh, poses) if len(absent) else np.zeros(len(mesh.faces), bool)
    if thin.any():
        rest = replace(mesh, faces=mesh.faces[~thin], face_material=mesh.face_material[~thin])
        views[absent] = render_views(rest, poses[absent], size, FOV_DEG, supersample=supersample,
                                     lighting=glossy)
    # the pictures
    gains = drift(rng, count, strength.brightness, strength.hue)
    moves = warps(rng, count, size, strength.warp * size)
    return np.stack([faulty(*parts) for parts in zip(views, gains, moves)]), written


def drift(rng, count: int, brightness: float, hue: float) -> np.ndarray:
    """Return factors (count, 3) on the linear light of the channels, 1 at the last view.

    Their logarithms go smoothly round the orbit, with the standard deviation `brightness` of their
    mean over the channels, and `hue` of the channels about it.
    """
    common, own = _along_orbit(rng, (count, 1)), _along_orbit(rng, (count, 3))
    own -= own.mean(1, keepdims=True)
    log = brightness * common / common.std() + hue * own / np.sqrt(own.var(0).mean())
    return np.exp(log - log[-1])


def warps(rng, count: int, size: int, strength: float) -> Iterator[np.ndarray]:
    """Yield displacements (size, size, 2) float32 in pixels, as (x, y), of each of `count` views.

    They are smooth in the picture and along the orbit, 0 at its border and in the last view;
    `strength` is their root mean square before they fade there, in pixels.
    """
    coarse = _along_orbit(rng, (count, CONTROL, CONTROL, 2))
    coarse *= strength / np.sqrt(np.square(coarse).mean())
    side = (np.arange(size) + 0.5) / size
    inward = np.minimum(1, np.minimum(side, 1 - side) / BORDER)
    inward = np.minimum(inward[:, None], inward)[..., None]
    for k, field in enumerate(coarse, 1):
        fine = cv2.resize(field.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        growth = min(1, k % count / GROWTH, -k % count / GROWTH)
        yield (growth * inward * fine).astype(np.float32)


def faulty(view: np.ndarray, gains: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Return a view (H, W, 4) uint8 with its linear light times gains (3,), then warped.

    Its pixel (x, y) comes from (x, y) + move there; beyond the picture there is nothing.
    """
    alpha = view[..., 3:] / np.float32(255)
    light = np.minimum(linear_from_srgb(view[..., :3] / np.float32(255)) * gains, 1)
    rows, columns = np.mgrid[:view.shape[0], :view.shape[1]].astype(np.float32)
    moved = cv2.remap(np.concatenate([light * alpha, alpha], -1).astype(np.float32),
                      columns + move[..., 0], rows + move[..., 1], cv2.INTER_LINEAR)
    alpha = moved[..., 3:]
    color = srgb_from_linear(np.clip(moved[..., :3] / np.maximum(alpha, 1e-6), 0, 1))
    level = np.round(255 * np.concatenate([color, alpha], -1)).astype(np.uint8)
    return np.where(level[..., 3:] > 0, level, np.uint8((255, 255, 255, 0)))


def thin_part(mesh: Mesh, poses: np.ndarray) -> np.ndarray:
    """Return which faces (F,) bool belong to the largest thin part that stands out.

    It is thin in the hull of the views from `poses`: what no ball of THIN cells fits into, and
    reaches more than REACH cells beyond all that one does (a mug is solid in its hull, its handle
    is not). None does where there is no such part, or only one of more than MOST_AREA of the
    surface.
    """
    cell = 2 * HALF / CELLS
    axis = (np.arange(CELLS) + 0.5) * cell - HALF
    inside = np.ones((CELLS,) * 3, bool)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    masks = render_views(mesh, poses, PIXELS, FOV_DEG, supersample=1)[..., 3] > 0
    for mask, pose in zip(masks, poses):
        pixels, _ = project(points[inside], pose, focal_length(PIXELS), PIXELS / 2, PIXELS / 2)
        column, row = np.clip(pixels, 0, PIXELS - 1).astype(int).T
        inside[inside] = mask[row, column]
    # what is left of an opening by the ball, far from what the ball reaches
    deep = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1] > THIN
    far = ndimage.distance_transform_edt(~deep) if deep.any() else np.zeros(deep.shape)
    parts, found = ndimage.label(inside & (far > THIN + REACH), np.ones((3, 3, 3)))
    none = np.zeros(len(mesh.faces), bool)
    if not found:
        return none
    largest = 1 + np.bincount(parts.ravel())[1:].argmax()
    # faces there, and those around it that the hull's voxels miss
    near = ndimage.binary_dilation(parts == largest, np.ones((3, 3, 3)), iterations=2)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    index = np.clip(((corners.mean(1) + HALF) / cell).astype(int), 0, CELLS - 1)
    chosen = near[tuple(index.T)]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]),
                           axis=1)
    return chosen if areas[chosen].sum() <= MOST_AREA * areas.sum() else none


def _along_orbit(rng, shape) -> np.ndarray:
    """Return normal noise, smooth along its first axis, which is a circle."""
    return ndimage.gaussian_filter1d(rng.standard_normal(shape), SMOOTHING, axis=0, mode="wrap")
