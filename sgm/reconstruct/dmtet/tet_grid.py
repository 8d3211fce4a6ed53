"""A tetrahedral grid without a data file: cubes cut into six (numpy only).

Kuhn's triangulation ("Some combinatorial lemmas in topology", 1960): in every cube one tetrahedron
for each order in which the three axes can be walked from its lowest to its highest corner. All
cubes are alike and neighbors fit, so that everything about the grid is arithmetic. Grid vertices
are numbered as `sdf.reshape(-1)` of a grid indexed [x, y, z].

The seven edges that start at a vertex go to the other corners of its cube; edge directions are
those corners as bits: 1 = +z, 2 = +y, 4 = +x, so 7 is the diagonal. The edge from vertex v in
direction d has the key 7 v + d - 1.
"""
from itertools import permutations

import numpy as np

DIRECTIONS = 7
# cells: no value of a sealed grid is nearer to zero, so that no triangle shrinks to a point
TINY = 1e-3
# cells: a deformation below this cannot turn a tetrahedron inside out (see `deformed`)
UNFOLDED = 1 / 6


def corner_paths():
    """Return the six tetrahedra of a cube, (6, 4) int: corners as bits.

    They are ordered so that every volume is positive.
    """
    paths = []
    for order in permutations((4, 2, 1)):
        path = np.cumsum((0,) + order)
        spans = np.array([[bool(c & bit) for bit in (4, 2, 1)] for c in path[1:]], float)
        if np.linalg.det(spans) < 0:
            path[[2, 3]] = path[[3, 2]]
        paths.append(path)
    return np.array(paths)


def corner_offsets(resolution):
    """Return the vertex numbers of a cube's eight corners less that of the lowest, (8,) int.

    They are in the order of the corners' bits.
    """
    side = resolution + 1
    bits = np.arange(8)
    return (bits >> 2 & 1) * side * side + (bits >> 1 & 1) * side + (bits & 1)


def positions(resolution, half, vertices=None):
    """Return coordinates of grid vertices in [-half, half]^3, (N, 3) float32.

    They are those of all vertices, or of the numbers `vertices` (N,).
    """
    side = resolution + 1
    vertices = np.arange(side ** 3) if vertices is None else np.asarray(vertices)
    index = np.stack([vertices // (side * side), vertices // side % side, vertices % side], axis=-1)
    return (index * (2 * half / resolution) - half).astype(np.float32)


def deformed(resolution, half, vertices, deformation, bound):
    """Return coordinates (N, 3) of the vertices (N,), moved by bound tanh(d) cells on each axis.

    d = deformation[vertices]. Up to `UNFOLDED` no tetrahedron can fold over: its three steps along
    the axes form, in cells, the unit matrix plus entries of at most 2 bound, which stays diagonally
    dominant while 6 bound < 1.
    """
    cell = 2 * half / resolution
    moved = positions(resolution, half, vertices)
    moved += np.float32(bound * cell) * np.tanh(deformation[vertices])
    return moved


def sealed(sdf, half):
    """Return a copy float32 (R + 1,) * 3 whose surface is closed and passes through no grid vertex.

    The outermost vertices are at least half a cell outside.
    """
    cell = np.float32(2 * half / (sdf.shape[0] - 1))
    out = np.where(
        np.abs(sdf) < TINY * cell, np.where(sdf < 0, -TINY * cell, TINY * cell), sdf
    ).astype(np.float32)
    for axis in range(3):
        for end in (0, -1):
            side = [slice(None)] * 3
            side[axis] = end
            out[tuple(side)] = np.maximum(out[tuple(side)], cell / 2)
    return out
