"""Multi-resolution grid encodings: which table entries a point reads, and with which weights.

Numpy and numba only. Two layouts behind one interface, each level trilinear: dense grids, one entry
per vertex; and Instant-NGP's hash grid (Mueller et al. 2022, arXiv 2201.05989), whose levels with
no more vertices than the hash table are stored densely too. Indices carry no gradient and hashing
needs integers of 32 bits, which an NPU does not promise to wrap: so the host computes both, and the
device gathers.
"""
from dataclasses import dataclass

import numpy as np
from numba import njit

from sgm.common.errors import InputError


@dataclass(frozen=True)
class Levels:
    """L levels in one table.

    resolution (L,) cells per side; first (L,) first entry; size (L,) entries: a level with size ==
    (resolution + 1)^3 is dense, the others are hashed into a power of two. features: F floats per
    entry.
    """
    resolution: np.ndarray
    first: np.ndarray
    size: np.ndarray
    features: int

    def __len__(self):
        return len(self.resolution)

    @property
    def entries(self):
        """Return the number of rows of the table."""
        return int(self.first[-1] + self.size[-1])

    @property
    def hashed(self):
        """Return which levels are hashed, (L,) bool."""
        return self.size < (self.resolution + 1) ** 3


def _levels(resolution, size, features):
    resolution, size = np.array(resolution, np.int64), np.array(size, np.int64)
    return Levels(resolution, np.concatenate([[0], np.cumsum(size)[:-1]]), size, features)


def dense_levels(resolutions, features=4):
    """Return dense Levels of the given numbers of cells per side."""
    return _levels(resolutions, [(r + 1) ** 3 for r in resolutions], features)


def hash_levels(levels=16, features=2, log2_size=17, coarsest=16, finest=1024):
    """Return Instant-NGP's Levels (eq. 2 and 3 of the paper).

    They have N_l = floor(N_min b^l) cells per side, b = (N_max / N_min)^(1 / (L - 1)).
    """
    growth = np.exp((np.log(finest) - np.log(coarsest)) / max(levels - 1, 1))
    resolution = np.floor(coarsest * growth ** np.arange(levels) + 1e-9).astype(np.int64)
    return _levels(resolution, np.minimum((resolution + 1) ** 3, 1 << log2_size), features)


@njit(cache=True, inline="always")
def spatial_hash(x, y, z, size):
    """Return (x 1 ^ y 2654435761 ^ z 805459861) mod size, size a power of two (eq. 4).

    Unsigned 64 bits keep every product.
    """
    h = (
        np.uint64(x)
        ^ (np.uint64(y) * np.uint64(2654435761))
        ^ (np.uint64(z) * np.uint64(805459861))
    )
    return np.int64(h & np.uint64(size - 1))


@njit(cache=True)
def _encode(points, half, resolution, first, hashed, size, features, indices, weights):
    levels, count = len(resolution), len(points)
    for n in range(count):
        for level in range(levels):
            r = resolution[level]
            scale = r / (2 * half)
            # Beyond the box a point counts as the nearest one of it.
            u = min(max((points[n, 0] + half) * scale, 0.0), np.float64(r))
            v = min(max((points[n, 1] + half) * scale, 0.0), np.float64(r))
            w = min(max((points[n, 2] + half) * scale, 0.0), np.float64(r))
            i, j, k = min(int(u), r - 1), min(int(v), r - 1), min(int(w), r - 1)
            u, v, w = u - i, v - j, w - k
            row = n * levels + level
            for corner in range(8):
                a, b, c = corner >> 2, (corner >> 1) & 1, corner & 1
                weight = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
                if hashed[level]:
                    index = spatial_hash(i + a, j + b, k + c, size[level])
                else:
                    index = ((i + a) * (r + 1) + j + b) * (r + 1) + k + c
                indices[corner, row] = first[level] + index
                for f in range(features):
                    weights[corner, row, f] = weight


def encode(points, half, levels, out=None, copies=None):
    """Return indices int32 (8, N L) and weights float32 (8, N L, copies) of points (N, 3).

    Points are in the box [-half, half]^3. Corners come first and weights are repeated over the F
    features, unless `copies` says otherwise: summing over a leading axis and multiplying equal
    shapes is several times faster on a CPU than broadcasting (measured). out: the two arrays of an
    earlier call with as many points, to be filled again: new ones of this size cost more than the
    values in them.
    """
    rows, copies = len(points) * len(levels), copies or levels.features
    indices, weights = out or (
        np.empty((8, rows), np.int32),
        np.empty((8, rows, copies), np.float32),
    )
    _encode(
        np.ascontiguousarray(points, np.float32),
        half,
        levels.resolution,
        levels.first,
        levels.hashed,
        levels.size,
        copies,
        indices,
        weights,
    )
    return indices, weights


def vertex_pairs(levels, count, rng):
    """Return random neighboring vertices of the dense levels, for total variation.

    They are rows of the table, int32 (2, count). Levels are drawn by their number of entries,
    directions evenly; hashed levels have no neighbors and are left out. Raises InputError if all
    are hashed.
    """
    dense = np.flatnonzero(~levels.hashed)
    if not len(dense):
        raise InputError(
            "nerf.tv: total variation needs a level that is stored densely, found none; set"
            " nerf.tv=0, a larger nerf.hash_log2, or nerf.encoding=dense"
        )
    share = levels.size[dense] / levels.size[dense].sum()
    chosen = dense[np.searchsorted(np.cumsum(share)[:-1], rng.random_sample(count))]
    r = levels.resolution[chosen]
    place = (rng.random_sample((count, 3)) * (r + 1)[:, None]).astype(np.int64)
    axis = rng.randint(3, size=count)
    place[np.arange(count), axis] = np.minimum(place[np.arange(count), axis], r - 1)
    stride = np.stack([(r + 1) ** 2, r + 1, np.ones_like(r)], axis=-1)
    first = levels.first[chosen] + (place * stride).sum(-1)
    return np.stack([first, first + stride[np.arange(count), axis]]).astype(np.int32)


def spherical_harmonics(directions):
    """Return real spherical harmonics of degrees 0 to 3 of unit directions (N, 3), (N, 16) float32.

    The sign convention is Instant-NGP's; see the tests for the closed forms.
    """
    x, y, z = np.asarray(directions, np.float64).T
    xx, yy, zz = x * x, y * y, z * z
    out = [
        np.full_like(x, 0.28209479177387814),
        -0.48860251190291987 * y,
        0.48860251190291987 * z,
        -0.48860251190291987 * x,
        1.0925484305920792 * x * y,
        -1.0925484305920792 * y * z,
        0.31539156525252005 * (3 * zz - 1),
        -1.0925484305920792 * x * z,
        0.5462742152960396 * (xx - yy),
        0.5900435899266435 * y * (yy - 3 * xx),
        2.890611442640554 * x * y * z,
        0.4570457994644657 * y * (1 - 5 * zz),
        0.3731763325901154 * z * (5 * zz - 3),
        0.4570457994644657 * x * (1 - 5 * zz),
        1.445305721320277 * z * (xx - yy),
        0.5900435899266435 * x * (3 * yy - xx),
    ]
    return np.stack(out, axis=-1).astype(np.float32)
