"""Cameras as the networks take them, rays, and where rays are inside the box. numpy, float32.

World: right-handed, z up. Poses are OpenGL camera-to-world: x right, y up, looking along -z. Focal
length and center are divided by the image's width and height.
"""
from typing import NamedTuple

import numpy as np

from sgm.views.cameras import DISTANCE, FOV_DEG, camera_to_world, focal_length

# The camera that each network was told, or trained, to see its input from: camera-to-world.
CANONICAL = {
    "vfusion3d": ((0, 0, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0)),
    "openlrm": ((1, 0, 0, 0), (0, 0, -1, -2), (0, 1, 0, 0))}
INTRINSICS = (0.75, 0.75, 0.5, 0.5)     # of VFusion3D and OpenLRM: fx, fy, cx, cy; 67.4 degrees
TRIPOSR_MARGIN = 0.999                  # of the box, whose rays TripoSR keeps inside it
# An upright network (`LrmSpec.upright`): its box [-1, 1]^3 is our world's [-0.5, 0.5]^3.
UPRIGHT_SCALE = 2.0
SV3D_INTRINSICS = (focal_length(1, FOV_DEG),) * 2 + (0.5, 0.5)


class Rays(NamedTuple):
    """Rays in flat order: view, row, column."""
    origins: np.ndarray             # (N, 3)
    directions: np.ndarray          # (N, 3), of length 1
    near: np.ndarray                # (N, 1), where they enter the box
    far: np.ndarray                 # (N, 1), where they leave it
    valid: np.ndarray               # (N, 1), 1 for those that meet it


def canonical_camera(family):
    """Return the camera (1, 16) that a family's network is told; None for triposr, told none."""
    if family not in CANONICAL:
        return None
    return camera_vectors(np.float32(CANONICAL[family])[None], INTRINSICS)


def upright_poses(azimuths, elevations):
    """Return SV3D's cameras in the box of an upright network, (V, 4, 4); angles (V,) in degrees.

    The input is at azimuth 0.
    """
    return camera_to_world(azimuths, elevations, UPRIGHT_SCALE * DISTANCE)


def upright_cameras(elevations):
    """Return what an upright network is told of inputs at these elevations (V,): (V, 16)."""
    return camera_vectors(upright_poses(np.zeros(len(elevations)), elevations), SV3D_INTRINSICS)


def camera_vectors(poses, intrinsics):
    """Return cameras (V, 16): poses (V, 3 or 4, 4) row by row, then fx, fy, cx, cy."""
    poses = np.asarray(poses, np.float32)[:, :3].reshape(len(poses), 12)
    intrinsics = np.broadcast_to(np.float32(intrinsics), (len(poses), 4))
    return np.concatenate([poses, intrinsics], axis=1)


def pixel_rays(poses, intrinsics, height, width):
    """Return origins and directions (V * H * W, 3) of the rays of poses (V, 3 or 4, 4).

    intrinsics: fx, fy, cx, cy, of all views or (V, 4).
    """
    poses = np.asarray(poses, np.float32)[:, :3]
    fx, fy, cx, cy = np.broadcast_to(np.float32(intrinsics), (len(poses), 4)).T[:, :, None, None]
    row = ((np.arange(height, dtype=np.float32) + 0.5) / height)[None, :, None]
    column = ((np.arange(width, dtype=np.float32) + 0.5) / width)[None, None, :]
    x, y = np.broadcast_arrays((column - cx) / fx, -(row - cy) / fy)
    directions = np.stack([x, y, -np.ones_like(x)], -1).reshape(len(poses), -1, 3)
    directions = np.matmul(directions, poses[:, :, :3].transpose(0, 2, 1))
    directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    origins = np.broadcast_to(poses[:, None, :, 3], directions.shape)
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def crossings(origins, directions, half):
    """Return the distances (N,) at which rays enter and leave the box [-half, half]^3.

    They enter after they leave where they miss it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-half - origins) / directions, (half - origins) / directions
    return np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)


def through_box(origins, directions, family, half):
    """Return the `Rays` in the box [-half, half]^3 as a family's code finds where they enter it.

    vfusion3d, openlrm: also what lies behind a camera is seen. Rays that miss get the least and the
    largest distance at which another ray enters: their samples are outside the box, and empty.
    triposr: nothing behind the camera.
    """
    origins, directions = np.float32(origins), np.float32(directions)
    if family == "triposr":
        half = np.float32(half * TRIPOSR_MARGIN)
        safe = np.where(np.abs(directions) < 1e-6, directions + np.float32(1e-6), directions)
        near, far = crossings(origins, safe, half)
        near = np.maximum(near, 0)
        valid = far - near > 0.01
        near, far = np.where(valid, near, 0), np.where(valid, far, 0)
    else:
        near, far = crossings(origins, directions, np.float32(half))
        valid = far > near
        start, end = (near[valid].min(), near[valid].max()) if valid.any() else (-1.0, -2.0)
        near, far = np.where(valid, near, start), np.where(valid, far, end)
    return Rays(origins, directions, *(x[:, None].astype(np.float32) for x in (near, far, valid)))
