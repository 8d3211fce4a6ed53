"""A scalar on the vertices of a cube grid: sampled, differentiated, blurred, traced by rays.

Numpy, numba and scipy only. A grid is float32 (R + 1, R + 1, R + 1), indexed [x, y, z], over the
box [-half, half]^3; as a signed distance it is negative inside.
"""
import logging

import numpy as np
from numba import njit
from scipy import ndimage

from sgm.reconstruct.posed_views import HALF, ShapeError

# neighbors of a vertex, by the edges of the tetrahedral grid (dmtet/tet_grid.py)
JOINED = np.zeros((3, 3, 3), bool)
JOINED[1:, 1:, 1:] = JOINED[:2, :2, :2] = True
LEAST = 5e-4                    # share of the masks that a piece must cover alone to be needed
log = logging.getLogger("sgm")


def one_piece(sdf, views=None):
    """Return the grid with its largest connected inside alone, and voids in it filled.

    Vertices are connected that the tetrahedral grid joins by an edge. views: small `PosedViews`, in
    the box |x| <= HALF, that agree with each other: other pieces stay too, where they need them,
    see `needed`. Raises ShapeError if there is no inside.
    """
    if not (sdf < 0).any():
        raise ShapeError(
            "the surface is empty: nothing is left inside; check masks and poses, or use"
            " depth.fusion=hull"
        )
    labels, count = ndimage.label(sdf < 0, JOINED)
    order = 1 + np.argsort(-np.bincount(labels.reshape(-1))[1:], kind="stable")
    smallest = np.float32(1e-3)

    def hits(piece, pixels):
        alone = np.where((labels == piece) | (sdf >= 0), sdf, smallest)
        return np.isfinite(trace(alone, HALF, *views.rays(*pixels)))

    kept = order[:1] if views is None or count == 1 else needed(order, views, hits)
    inside = np.isin(labels, kept)
    empty, _ = ndimage.label(~inside, JOINED)
    void = ~inside & (empty != empty[0, 0, 0])
    sdf = np.where(inside, sdf, np.maximum(sdf, smallest))
    return np.where(void, -np.maximum(np.abs(sdf), smallest), sdf)


def needed(pieces, views, hits):
    """Return the pieces, largest first, that views need: the first, and those that cover enough.

    Enough is LEAST of the masks' pixels that no piece kept before covers. hits(piece, pixels):
    which of the pixels, a tuple (view, row, column), show something of a piece, (N,) bool.
    """
    pixels = np.nonzero(views.mask > 0.5)
    kept, least = [], max(LEAST * len(pixels[0]), 1)
    for piece in pieces:
        if kept and len(pixels[0]) < least:
            break
        hit = hits(piece, pixels)
        if not kept or hit.sum() >= least:
            kept.append(piece)
            pixels = tuple(index[~hit] for index in pixels)
    return kept


def blurred(grid, sigma, mode="nearest"):
    """Return a grid under a Gaussian of `sigma` cells, cut off at three; 0 returns the grid itself.

    mode: what lies beyond the border: "nearest" repeats it, "constant" is zero.
    """
    if sigma <= 0:
        return grid
    return ndimage.gaussian_filter(grid, sigma, mode=mode, radius=max(1, int(np.ceil(3 * sigma))))


def vertices(resolution, half):
    """Return the coordinates of one axis, (resolution + 1,) float32 from -half to half."""
    return np.linspace(-half, half, resolution + 1, dtype=np.float32)


@njit(cache=True, inline="always")
def at(grid, half, x, y, z):
    """Return the trilinear value at a point; beyond the box, that of the nearest point of it."""
    cells = grid.shape[0] - 1
    scale = cells / (2 * half)
    u = min(max((x + half) * scale, 0.0), cells - 1e-6)
    v = min(max((y + half) * scale, 0.0), cells - 1e-6)
    w = min(max((z + half) * scale, 0.0), cells - 1e-6)
    i, j, k = int(u), int(v), int(w)
    u, v, w = u - i, v - j, w - k
    a = grid[i, j, k] * (1 - w) + grid[i, j, k + 1] * w
    b = grid[i, j + 1, k] * (1 - w) + grid[i, j + 1, k + 1] * w
    c = grid[i + 1, j, k] * (1 - w) + grid[i + 1, j, k + 1] * w
    d = grid[i + 1, j + 1, k] * (1 - w) + grid[i + 1, j + 1, k + 1] * w
    return (a * (1 - v) + b * v) * (1 - u) + (c * (1 - v) + d * v) * u


@njit(cache=True)
def sample(grid, half, points):
    """Return trilinear values (N,) float32 at points (N, 3)."""
    out = np.empty(len(points), np.float32)
    for n in range(len(points)):
        out[n] = at(grid, half, points[n, 0], points[n, 1], points[n, 2])
    return out


@njit(cache=True)
def gradient(grid, half, points):
    """Return central differences over one cell at points (N, 3), (N, 3) float32, not normalized."""
    out = np.empty((len(points), 3), np.float32)
    step = half / (grid.shape[0] - 1)       # half a cell
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        out[n, 0] = (at(grid, half, x + step, y, z) - at(grid, half, x - step, y, z)) / (2 * step)
        out[n, 1] = (at(grid, half, x, y + step, z) - at(grid, half, x, y - step, z)) / (2 * step)
        out[n, 2] = (at(grid, half, x, y, z + step) - at(grid, half, x, y, z - step)) / (2 * step)
    return out


@njit(cache=True, inline="always")
def enter_box(ox, oy, oz, dx, dy, dz, half):
    """Return distances at which a ray enters and leaves the box.

    The second is smaller than the first if the ray misses.
    """
    near, far = 0.0, 1e30
    for o, d in ((ox, dx), (oy, dy), (oz, dz)):
        if abs(d) < 1e-12:
            if abs(o) > half:
                return 1.0, 0.0
        else:
            a, b = (-half - o) / d, (half - o) / d
            near, far = max(near, min(a, b)), min(far, max(a, b))
    return near, far


@njit(cache=True)
def trace(grid, half, origins, directions):
    """Return distances (N,) along rays (N, 3) to the first point where the grid is negative.

    They are float32, inf where there is none. Steps are the value's, at least half a cell and at
    most four: a grid need not be a true distance.
    """
    cell = 2 * half / (grid.shape[0] - 1)
    out = np.full(len(origins), np.inf, np.float32)
    for n in range(len(origins)):
        ox, oy, oz = origins[n, 0], origins[n, 1], origins[n, 2]
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        t, far = enter_box(ox, oy, oz, dx, dy, dz, half)
        before, value_before = t, 1.0
        while t <= far:
            value = at(grid, half, ox + t * dx, oy + t * dy, oz + t * dz)
            if value < 0:
                if t > before:
                    t = before + (t - before) * value_before / (value_before - value)
                out[n] = t
                break
            before, value_before = t, value
            t += min(max(0.7 * value, 0.5 * cell), 4 * cell)
    return out


def silhouettes(grid, half, views):
    """Return where the rays of `views` meet the negative part, (V, H, W) bool, and how far away.

    The distances (V, H, W) are float32, inf where a ray meets nothing.
    """
    rows, columns = np.divmod(np.arange(views.h * views.w), views.w)
    depth = np.stack(
        [
            trace(grid, half, *views.rays(np.full(len(rows), k), rows, columns)).reshape(
                views.h, views.w
            )
            for k in range(len(views))
        ]
    )
    return np.isfinite(depth), depth
