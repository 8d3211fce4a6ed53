"""Marching tetrahedra: which grid edges the surface crosses, how, and where.

The host (numba) finds the crossed edges and joins the crossings; the device, differentiably, finds
where on the edges they lie. The joining depends on signs only, so gradients need only the place p =
a + (b - a) s_a / (s_a - s_b) of a crossing (Shen et al., "Deep Marching Tetrahedra", NeurIPS 2021,
eq. 3). A sealed grid gives closed surfaces for any values: every triangle side lies in a face that
two tetrahedra share, and both put it there, in opposite directions.
"""
from itertools import combinations, permutations

import numpy as np
from numba import njit

from sgm.reconstruct.dmtet.tet_grid import DIRECTIONS, corner_offsets, corner_paths


def _triangles():
    """Return what to draw in each tetrahedron: counts (6, 16) and edges (6, 16, 2, 3, 2).

    An edge is (lower corner, direction). The second index is the set of corners inside, as bits of
    their place in the tetrahedron.
    """
    counts, edges = np.zeros((6, 16), np.int64), np.zeros((6, 16, 2, 3, 2), np.int64)

    def even(order):
        return sum(order[i] > order[j] for i, j in combinations(range(4), 2)) % 2 == 0

    for tetrahedron, corners in enumerate(corner_paths()):
        def edge(i, j, corners=corners):
            # corners of a path contain one another
            return corners[i] & corners[j], corners[i] ^ corners[j]

        for inside in range(1, 15):
            ones = [i for i in range(4) if inside >> i & 1]
            rest = [i for i in range(4) if not inside >> i & 1]
            # In an even order (i, j, k, l) of a positive tetrahedron, j k l turn left seen from
            # outside of i.
            a, b, c, d = next(
                o
                for o in permutations(range(4))
                if even(o)
                and (
                    {o[0]} == set(ones)
                    or {o[0]} == set(rest)
                    or (len(ones) == 2 and set(o[:2]) == set(ones))
                )
            )
            if len(ones) == 2:
                quad = edge(a, c), edge(a, d), edge(b, d), edge(b, c)
                faces = [(quad[0], quad[1], quad[2]), (quad[0], quad[2], quad[3])]
            else:
                faces = [(edge(a, b), edge(a, c), edge(a, d))]
                if len(ones) == 3:
                    faces = [face[::-1] for face in faces]
            counts[tetrahedron, inside] = len(faces)
            edges[tetrahedron, inside, :len(faces)] = faces
    return counts, edges


_COUNTS, _EDGES = _triangles()
_CORNERS = corner_paths()


@njit(cache=True)
def _march(sdf, offsets, corners, counts, table):
    side = sdf.shape[0]
    values = sdf.reshape(-1)
    number = np.full(values.size * DIRECTIONS, -1, np.int32)
    # Count the faces.
    total, faces = 0, 0
    # signs of each cube's corners, as bits
    signs = np.zeros((side - 1, side - 1, side - 1), np.uint8)
    for x in range(side - 1):
        for y in range(side - 1):
            for z in range(side - 1):
                lowest, bits = (x * side + y) * side + z, 0
                for c in range(8):
                    if values[lowest + offsets[c]] < 0:
                        bits |= 1 << c
                signs[x, y, z] = bits
                if bits == 0 or bits == 255:
                    continue
                for t in range(6):
                    inside = 0
                    for i in range(4):
                        inside |= (bits >> corners[t, i] & 1) << i
                    faces += counts[t, inside]
    # The same again, now writing faces and the edges they cross.
    triangles = np.empty((faces, 3), np.int32)
    ends = np.empty((3 * faces, 2), np.int32)
    faces = 0
    for x in range(side - 1):
        for y in range(side - 1):
            for z in range(side - 1):
                bits = signs[x, y, z]
                if bits == 0 or bits == 255:
                    continue
                lowest = (x * side + y) * side + z
                for t in range(6):
                    inside = 0
                    for i in range(4):
                        inside |= (bits >> corners[t, i] & 1) << i
                    for f in range(counts[t, inside]):
                        for i in range(3):
                            low = lowest + offsets[table[t, inside, f, i, 0]]
                            direction = table[t, inside, f, i, 1]
                            key = low * DIRECTIONS + direction - 1
                            if number[key] < 0:
                                number[key] = total
                                ends[total, 0], ends[total, 1] = low, low + offsets[direction]
                                total += 1
                            triangles[faces, i] = number[key]
                        faces += 1
    return ends[:total].copy(), triangles


def march(sdf):
    """Return the surface of a grid (R + 1,) * 3 that is negative inside.

    edges (E, 2) int32: grid vertices, one of each pair inside, of every crossing; faces (M, 3)
    int32: crossings, counter-clockwise seen from outside. The surface is closed if the grid is
    `tet_grid.sealed`.
    """
    sdf = np.ascontiguousarray(sdf, np.float32)
    return _march(sdf, corner_offsets(sdf.shape[0] - 1), _CORNERS, _COUNTS, _EDGES)


def crossings(s_a, s_b, a, b):
    """Return points (E, 3) where edges cross the surface, numpy.

    s_a, s_b (E,): values of opposite signs; a, b (E, 3): the ends.
    """
    return a + (b - a) * (s_a / (s_a - s_b))[:, None]


def device_crossings(ends):
    """Return the same on the device: x, y, z (E,) each.

    ends: eight tensors (E,): s_a, s_b, a's x, y, z and b's. Where s_a = s_b, in the padding of a
    static length, the place is a.
    """
    s_a, s_b, a, b = ends[0], ends[1], ends[2:5], ends[5:8]
    difference = s_a - s_b
    part = s_a / (difference + (difference == 0).astype(s_a.dtype))
    return a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part, a[2] + (b[2] - a[2]) * part
