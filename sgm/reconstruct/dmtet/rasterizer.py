"""The host's half of the rasterizer: which face a pixel shows, and where outlines pass.

Numpy and numba. None of it has a gradient; `raster_gradients` computes again, from the corners
found here, what has one. The split is that of nvdiffrast's rasterize, interpolate and antialias
(Laine et al., "Modular primitives for high-performance differentiable rendering", 2020). Cameras
are OpenGL camera-to-world with intrinsics (fl_x, fl_y, cx, cy) in pixels, pixel centers at +0.5.
"""
from dataclasses import dataclass

import numpy as np
from numba import njit

from sgm.render.zbuffer import NEAR, rasterize

JUMP = 3.0  # widths of a pixel: two neighboring pixels whose depths differ by less show one surface
WALK = 64           # triangles crossed between two pixel centers before an outline is given up

# What the z-buffer needs for surfaces without texture: texture coordinates, materials, a texel.
_PLAIN = (
    np.zeros((1, 2), np.float32),
    np.ones((1, 4), np.float32),
    np.zeros((1, 3), np.int64),
    np.zeros(1, np.float32),
    np.zeros((1, 4), np.float32),
)


@njit(cache=True)
def _camera_space(vertices, c2w):
    out = np.empty((len(vertices), 3))
    for n in range(len(vertices)):
        for i in range(3):
            out[n, i] = 0.0
            for j in range(3):
                out[n, i] += (vertices[n, j] - c2w[j, 3]) * c2w[j, i]
    return out


@njit(cache=True)
def _facing(view, faces):
    """Return the numbers of the faces whose outer side the camera sees."""
    out = np.empty(len(faces), np.int32)
    count = 0
    for f in range(len(faces)):
        a, b, c = view[faces[f, 0]], view[faces[f, 1]], view[faces[f, 2]]
        volume = (a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2])
                  + a[2] * (b[0] * c[1] - b[1] * c[0]))
        if volume < 0:
            out[count] = f
            count += 1
    return out[:count].copy()


def face_ids(vertices, faces, c2w, intrinsics, width, height):
    """Return the nearest outward face at each pixel center (H, W) int32, and z-depth (H, W).

    The id is -1 where there is no face; depths are float64. vertices (N, 3), faces (M, 3)
    counter-clockwise from outside, one camera c2w (4, 4), intrinsics (4,).
    """
    view = _camera_space(
        np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(c2w, np.float64)
    )
    front = _facing(view, faces)
    # The z-buffer knows square pictures with the axis in the middle: shear the space so that ours
    # is one of them.
    samples = max(width, height)
    fl_x, fl_y, cx, cy = intrinsics
    sheared = view.copy()
    sheared[:, 0] = (fl_x * view[:, 0] - (cx - samples / 2) * view[:, 2]) / fl_x
    sheared[:, 1] = (fl_y * view[:, 1] - (samples / 2 - cy) * view[:, 2]) / fl_x
    uv, factor, texture, cutoff, texel = _PLAIN
    depth, ids, _ = rasterize(
        sheared,
        faces[front],
        uv,
        np.zeros(len(front), np.int32),
        factor,
        texture,
        cutoff,
        texel,
        samples,
        float(fl_x),
        NEAR,
    )
    ids, depth = ids[:height, :width], depth[:height, :width]
    return np.where(ids >= 0, np.append(front, -1)[ids], -1).astype(np.int32), depth


@dataclass(frozen=True)
class Outline:
    """Pairs of neighboring pixels of one view between which a silhouette passes, Q of them.

    near, far (Q,) int32: pixel numbers (row * W + column); the outline belongs to the surface seen
    at `near`.
    ends (Q, 2) int32: vertices of the mesh edge that is the outline there. across (Q,) float32: how
    much of the pair counts, the squared component of the edge's normal along the pair: horizontal
    and vertical pairs of an edge then add up to one. place (Q,) float32 in [0, 1): where the
    outline crosses, 0 at near's center and 1 at far's.
    functionals (Q, 9) float32: see `raster_gradients.place`.
    """
    near: np.ndarray
    far: np.ndarray
    ends: np.ndarray
    across: np.ndarray
    place: np.ndarray
    functionals: np.ndarray


@njit(cache=True)
def _walk(screen, faces, around, front, f, x, y, step, axis):
    """Walk from the pixel center (x, y) on face f by `step` along the axis to the outline.

    Return the outline's edge (p, q) and its distance. p = -1: the surface goes on to the next
    pixel, or does not end within WALK triangles.
    """
    here, line = (x, y) if axis == 0 else (y, x)
    for _ in range(WALK):
        best, side = -1e30, -1
        for i in range(3):
            p, q = faces[f, i], faces[f, (i + 1) % 3]
            a, b = screen[p, 1 - axis], screen[q, 1 - axis]
            # half open: a line through a corner crosses two sides all the same
            if (a <= line) == (b <= line):
                continue
            u = (line - a) / (b - a)
            along = step * (screen[p, axis] + u * (screen[q, axis] - screen[p, axis]) - here)
            if along > best:
                best, side = along, i
        if side < 0 or best >= 1.0:
            return -1, -1, 0.0
        g = around[f, side]
        if g < 0 or not front[g]:
            return faces[f, side], faces[f, (side + 1) % 3], max(best, 0.0)
        f = g
    return -1, -1, 0.0


@njit(cache=True)
def _outline(screen, faces, around, front, ids, depth, focal):
    height, width = ids.shape
    pairs = np.empty((2 * height * width, 5), np.int32)        # near, far, ends, axis
    numbers = np.empty((2 * height * width, 2), np.float32)    # across, place
    count = 0
    for axis in range(2):
        for row in range(height - axis):
            for column in range(width - 1 + axis):
                r, c = row + axis, column + 1 - axis
                one, two = ids[row, column], ids[r, c]
                if one == two:
                    continue
                # Two faces of nearly one depth are one surface.
                if one >= 0 and two >= 0:
                    a, b = depth[row, column], depth[r, c]
                    if abs(a - b) < JUMP * min(a, b) / focal:
                        continue
                # From the nearer pixel to where its surface ends.
                step = 1.0
                if one < 0 or (two >= 0 and depth[r, c] < depth[row, column]):
                    row_n, column_n, step = r, c, -1.0
                else:
                    row_n, column_n = row, column
                p, q, place = _walk(
                    screen,
                    faces,
                    around,
                    front,
                    ids[row_n, column_n],
                    column_n + 0.5,
                    row_n + 0.5,
                    step,
                    axis,
                )
                if p < 0:
                    continue
                dx, dy = screen[q, 0] - screen[p, 0], screen[q, 1] - screen[p, 1]
                normal = dy if axis == 0 else dx
                one, two = row * width + column, r * width + c
                pairs[count, 0], pairs[count, 1] = (one, two) if step > 0 else (two, one)
                pairs[count, 2], pairs[count, 3], pairs[count, 4] = p, q, axis
                numbers[count, 0], numbers[count, 1] = (
                    normal * normal / max(dx * dx + dy * dy, 1e-12),
                    place,
                )
                count += 1
    return pairs[:count].copy(), numbers[:count].copy()


def outline(vertices, faces, around, ids, depth, c2w, intrinsics):
    """Return the Outline of one view, occluding contours inside the object included.

    around: `sgm.geometry.topology.face_neighbors`; ids, depth: of `face_ids`. From the nearer of
    two differing pixels the surface is followed from triangle to triangle towards the other one
    until it turns away from the camera. Testing only the visible triangle itself, as nvdiffrast
    does, misses most outlines once triangles are smaller than pixels.
    """
    fl_x, fl_y, cx, cy = intrinsics
    vertices = np.ascontiguousarray(vertices, np.float64)
    view = _camera_space(vertices, np.ascontiguousarray(c2w, np.float64))
    front = np.zeros(len(faces), np.bool_)
    front[_facing(view, faces)] = True
    screen = np.stack(
        [cx - fl_x * view[:, 0] / view[:, 2], cy + fl_y * view[:, 1] / view[:, 2]], axis=-1
    )
    pairs, numbers = _outline(screen, faces, around, front, ids, depth, fl_x)
    near, far, axis = pairs[:, 0], pairs[:, 1], pairs[:, 4]
    row, column = np.divmod(near, ids.shape[1])
    right, up, ahead = c2w[:3, 0], c2w[:3, 1], -c2w[:3, 2]
    # times a point: depth times its pixels to the
    along_x = fl_x * right + (cx - column - 0.5)[:, None] * ahead
    # right of, and below, the center of `near`
    along_y = -fl_y * up + (cy - row - 0.5)[:, None] * ahead
    level = (axis == 0)[:, None]
    sign = np.sign(far - near)[:, None]
    functionals = np.concatenate(
        [
            np.where(level, along_y, along_x),
            sign * np.where(level, along_x, along_y),
            np.broadcast_to(ahead, (len(near), 3)),
        ],
        axis=-1,
    ).astype(np.float32)
    return Outline(near, far, pairs[:, 2:4], numbers[:, 0], numbers[:, 1], functionals)


def pixel_rays(pixels, width, c2w, intrinsics):
    """Return world directions (N, 3) float32 through pixel centers.

    Their length is 1 along the optical axis, so that distances are z-depths.
    """
    row, column = np.divmod(pixels, width)
    fl_x, fl_y, cx, cy = intrinsics
    local = np.stack(
        [(column + 0.5 - cx) / fl_x, (cy - row - 0.5) / fl_y, -np.ones(len(pixels))], axis=-1
    )
    return (local @ c2w[:3, :3].T).astype(np.float32)
