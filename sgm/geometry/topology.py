"""Mesh topology: welding, adjacency, components, orientation, volume.

Everywhere vertices are (N, 3) float and faces (M, 3) int, counter-clockwise seen from outside.
"""
from __future__ import annotations

import numpy as np
from numba import njit
from scipy import sparse
from scipy.sparse.csgraph import connected_components

# vertices equal after rounding to this are one; triangles of less height are degenerate
MERGE = 1e-8


def weld(
    vertices: np.ndarray, faces: np.ndarray, step: float = MERGE
) -> tuple[np.ndarray, np.ndarray]:
    """Merge vertices that agree after rounding to `step`, and drop unused ones.

    Return vertices (K, 3) of the input's dtype, faces (M, 3) int32. Faces keep their number and
    order; some may now name a vertex twice.
    """
    corner = faces.reshape(-1)
    key = np.round(np.asarray(vertices, np.float64)[corner] / step).astype(np.int64)
    order = np.lexsort(key.T)
    fresh = np.ones(len(key), bool)
    fresh[1:] = (key[order[1:]] != key[order[:-1]]).any(1)
    place = np.empty(len(key), np.int64)
    place[order] = np.cumsum(fresh) - 1
    return vertices[corner[order[fresh]]], place.reshape(-1, 3).astype(np.int32)


def heights(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the least height of every triangle, (M,) float64; 0 = degenerate.

    It is twice the area over the longest side.
    """
    p = np.asarray(vertices, np.float64)[faces]
    longest = np.sqrt(max_over_sides(p))
    return doubled_areas(p) / np.maximum(longest, 1e-300)


def max_over_sides(p: np.ndarray) -> np.ndarray:
    """Return the squared length of the longest side of triangles (M, 3, 3)."""
    return np.max([np.square(p[:, k] - p[:, k - 1]).sum(1) for k in range(3)], axis=0)


def doubled_areas(p: np.ndarray) -> np.ndarray:
    """Return twice the area of triangles (M, 3, 3)."""
    return np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1)


def areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the area of every triangle, (M,) float64."""
    return doubled_areas(np.asarray(vertices, np.float64)[faces]) / 2


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return unit normals (M, 3) float64; 0 where a triangle has no area."""
    p = np.asarray(vertices, np.float64)[faces]
    n = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    length = np.linalg.norm(n, axis=1, keepdims=True)
    return np.divide(n, length, out=np.zeros_like(n), where=length > 0)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return unit normals (N, 3) float64, the faces' weighted by area; 0 where they cancel."""
    p = np.asarray(vertices, np.float64)[faces]
    n = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    out = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(n[:, k], 3), len(vertices)) for k in range(3)], 1
    )
    length = np.linalg.norm(out, axis=1, keepdims=True)
    return np.divide(out, length, out=np.zeros_like(out), where=length > 0)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Return the signed volume that a closed mesh encloses; positive if its faces look outwards."""
    p = np.asarray(vertices, np.float64)[faces]
    return float(np.einsum("ij,ij->i", p[:, 0], np.cross(p[:, 1], p[:, 2])).sum() / 6)


def edge_groups(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (order, start), int64: the 3M half-edges sorted by their two ends.

    Half-edge 3 f + k is side k of face f, from corner k to k + 1. Half-edges order[start[e]:start[e
    + 1]] lie on edge e.
    """
    ends = np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2).astype(np.int64)
    ends.sort(1)
    key = ends[:, 0] * (int(faces.max()) + 1 if len(faces) else 1) + ends[:, 1]
    order = np.argsort(key, kind="stable")
    fresh = np.flatnonzero(np.diff(key[order], prepend=-1))
    return order, np.append(fresh, len(order))


def face_neighbors(faces: np.ndarray) -> np.ndarray:
    """Return (M, 3) int32: the face beyond side k (corner k to k + 1) of every face.

    It is -1 at a boundary and where more than two faces meet.
    """
    order, start = edge_groups(faces)
    out = np.full(3 * len(faces), -1, np.int32)
    pairs = start[:-1][np.diff(start) == 2]
    a, b = order[pairs], order[pairs + 1]
    out[a], out[b] = b // 3, a // 3
    return out.reshape(-1, 3)


def face_components(faces: np.ndarray) -> np.ndarray:
    """Return (M,) int32: the part that every face belongs to, numbered by first face.

    Parts are connected through edges.
    """
    order, start = edge_groups(faces)
    follows = np.ones(len(order), bool)
    follows[start[:-1]] = False                 # the first half-edge of an edge follows none
    second = np.flatnonzero(follows)
    a, b = order[second - 1] // 3, order[second] // 3
    graph = sparse.coo_matrix((np.ones(len(a), bool), (a, b)), (len(faces), len(faces)))
    return connected_components(graph, directed=False)[1]


def turned_alike(faces: np.ndarray) -> np.ndarray:
    """Return faces (M, 3), same dtype, oriented alike where that is possible.

    Two faces of an edge then run through it in opposite directions; the first face of a part keeps
    its orientation.
    """
    flip = _flips(np.ascontiguousarray(faces), face_neighbors(faces))
    return np.where(flip[:, None], faces[:, ::-1], faces)


@njit(cache=True)
def _flips(faces, beyond):
    count = len(faces)
    flip, seen = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    stack = np.empty(count, np.int64)
    for first in range(count):
        if seen[first]:
            continue
        seen[first] = True
        stack[0] = first
        size = 1
        while size:
            size -= 1
            f = stack[size]
            for k in range(3):
                g = beyond[f, k]
                if g < 0 or seen[g]:
                    continue
                same = False  # does g run through the edge in the same direction as f?
                for j in range(3):
                    same |= (
                        faces[g, j] == faces[f, k]
                        and faces[g, (j + 1) % 3] == faces[f, (k + 1) % 3]
                    )
                flip[g] = flip[f] != same
                seen[g] = True
                stack[size] = g
                size += 1
    return flip


def describe(vertices: np.ndarray, faces: np.ndarray) -> dict:
    """Return what report.json says of a mesh; vertices at one place count as one.

    vertices, faces, components, boundary_edges (of one face), branching_edges (of more than two),
    watertight (every edge has two faces, which agree on the outside), genus (handles, of a
    watertight mesh), volume and area in the mesh's units.
    """
    if len(faces):  # in any units
        vertices, faces = weld(
            vertices, faces, MERGE * max(np.ptp(vertices[faces.reshape(-1)], axis=0).max(), MERGE)
        )
    order, start = edge_groups(faces)
    counts = np.diff(start)
    parts = int(face_components(faces).max()) + 1 if len(faces) else 0
    closed = bool(len(faces) and (counts == 2).all())
    if closed:
        ahead = faces.reshape(-1) < np.roll(faces, -1, axis=1).reshape(-1)
        closed = bool((ahead[order[0::2]] != ahead[order[1::2]]).all())
    euler = len(vertices) - len(counts) + len(faces)
    return dict(
        vertices=len(vertices),
        faces=len(faces),
        components=parts,
        boundary_edges=int((counts == 1).sum()),
        branching_edges=int((counts > 2).sum()),
        watertight=closed,
        genus=parts - euler // 2 if closed else None,
        volume=volume(vertices, faces) if closed else None,
        area=float(areas(vertices, faces).sum()),
    )
