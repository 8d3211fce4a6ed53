"""Charts: a surface cut into pieces that can be laid flat by projection.

Each is seen whole along one direction. Faces take the nearest of six directions, with a price on
cuts; connected parts of one label become charts; what would overlap itself in its projection is cut
off. Every step is a fixed number of sweeps over the faces, so the time is bounded.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from sgm.geometry.topology import areas, face_neighbors, face_normals

AXES = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)], float)
CUT = 0.02          # price of a cut of unit length, times the extent: larger charts, more stretch
# least cosine between a face and its chart's direction: a stretch of at most 1 / FACING
FACING = 0.3
SWEEPS = 12
SMALL = 2e-3  # charts of less than this share of the area join a neighbor if that can see them
GRID = 512          # cells along the mesh's longest side of the grid that finds overlaps


@dataclass(frozen=True, eq=False)
class Charts:
    """C charts.

    label (M,) int32: each face's chart. corners (K, 2) float64: flat coordinates in the mesh's
    units, lengths kept along the plane of the chart, y and x as laid by its smallest rectangle;
    face_corners (M, 3) int32 rows of it.
    """
    label: np.ndarray
    corners: np.ndarray
    face_corners: np.ndarray


def cut(vertices: np.ndarray, faces: np.ndarray) -> Charts:
    """Cut a mesh into Charts: vertices (N, 3), faces (M, 3) with one vertex per place, M > 0."""
    vertices = np.asarray(vertices, np.float64)
    faces = np.ascontiguousarray(faces, np.int32)
    normals, area, beyond = (
        face_normals(vertices, faces),
        areas(vertices, faces),
        face_neighbors(faces),
    )
    extent = max(np.ptp(vertices[faces.reshape(-1)], axis=0).max(), 1e-30)
    sides = np.linalg.norm(vertices[np.roll(faces, -1, axis=1)] - vertices[faces], axis=2)
    label = np.argmax(normals @ AXES.T, axis=1).astype(np.int32)
    _smooth(label, normals @ AXES.T, area, beyond, sides * CUT * extent)
    label = _absorbed(label, normals, area, beyond, faces)
    chart = _connected(label, beyond)
    axis = AXES[label]
    # Projected along its own mean normal a chart is stretched less, if all of it is seen from
    # there.
    mean = np.stack([np.bincount(chart, area * normals[:, k]) for k in range(3)], 1)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-30)
    seen = np.einsum("ij,ij->i", normals, mean[chart])
    worst = np.full(len(mean), np.inf)
    np.minimum.at(worst, chart, np.where(area > 0, seen, np.inf))
    axis = np.where((worst >= FACING)[chart][:, None], mean[chart], axis)
    flat, depth = _projected(vertices, faces, axis)
    chart = _without_overlap(chart, flat, depth, beyond, area, extent / GRID)
    return _laid(chart, faces, flat)


@njit(cache=True)
def _smooth(label, cosine, area, beyond, price):
    """Minimize the sum of (1 - cosine) area and the price of sides between labels.

    Iterated conditional modes.
    """
    for _ in range(SWEEPS):
        changed = 0
        for f in range(len(label)):
            best, least = label[f], np.inf
            for k in range(-1, 3):
                if k >= 0 and beyond[f, k] < 0:
                    continue
                candidate = label[f] if k < 0 else label[beyond[f, k]]
                if cosine[f, candidate] < FACING and k >= 0:
                    continue
                cost = (1.0 - cosine[f, candidate]) * area[f]
                for j in range(3):
                    if beyond[f, j] >= 0 and label[beyond[f, j]] != candidate:
                        cost += price[f, j]
                if cost < least:
                    best, least = candidate, cost
            if best != label[f]:
                label[f] = best
                changed += 1
        if changed == 0:
            break


@njit(cache=True)
def _connected(label, beyond):
    """Return (M,) int32: charts, parts of one label connected through sides."""
    chart = np.full(len(label), -1, np.int32)
    stack = np.empty(len(label), np.int64)
    count = 0
    for first in range(len(label)):
        if chart[first] >= 0:
            continue
        chart[first], stack[0], size = count, first, 1
        while size:
            size -= 1
            f = stack[size]
            for k in range(3):
                g = beyond[f, k]
                if g >= 0 and chart[g] < 0 and label[g] == label[f]:
                    chart[g] = count
                    stack[size] = g
                    size += 1
        count += 1
    return chart


def _absorbed(label, normals, area, beyond, faces):
    """Give small parts the label of the neighbor they share most with.

    Only neighbors whose direction sees all of the part count.
    """
    cosine = normals @ AXES.T
    for _ in range(4):
        chart = _connected(label, beyond)
        size = np.bincount(chart, area)
        small = size < SMALL * area.sum()
        worst = np.full((len(size), len(AXES)), np.inf)
        np.minimum.at(worst, chart, np.where(area[:, None] > 0, cosine, np.inf))
        shared = np.zeros((len(size), len(AXES)))
        f, k = np.nonzero((beyond >= 0) & small[chart][:, None])
        g = beyond[f, k]
        across = chart[f] != chart[g]
        np.add.at(shared, (chart[f[across]], label[g[across]]), 1.0)
        shared[worst < FACING / 2] = 0
        move = small & (shared.max(1) > 0)
        if not move.any():
            break
        label = np.where(move[chart], shared.argmax(1)[chart], label).astype(np.int32)
    return label


def _projected(vertices, faces, axis):
    """Project faces along `axis` (M, 3), seen from outside.

    Return flat (M, 3, 2), depth towards the viewer (M, 3).
    """
    helper = np.where(np.abs(axis[:, 2:]) < 0.9, (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
    right = np.cross(helper, axis)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(axis, right)
    p = vertices[faces]
    flat = np.stack([np.einsum("fkc,fc->fk", p, right), np.einsum("fkc,fc->fk", p, up)], -1)
    return np.ascontiguousarray(flat), np.einsum("fkc,fc->fk", p, axis)


def _without_overlap(chart, flat, depth, beyond, area, cell):
    """Grow charts face by face from their largest one.

    Faces that would cover others on another level start new charts.
    """
    order = np.lexsort((-area, chart))
    start = np.searchsorted(chart[order], np.arange(chart.max() + 2))
    out, count = np.full(len(chart), -1, np.int32), 0
    for c in range(len(start) - 1):
        members = order[start[c]:start[c + 1]]
        low = flat[members].reshape(-1, 2).min(0)
        cells = np.ceil((flat[members].reshape(-1, 2).max(0) - low) / cell).astype(int) + 1
        count = _grow(members, chart, flat, low, depth, beyond, cell,
                      np.full((cells[1], cells[0]), np.inf), out, count)
    return out


@njit(cache=True)
def _grow(members, chart, flat, low, depth, beyond, cell, level, out, count):
    tolerance = 3 * cell
    stack = np.empty(3 * len(members) + 1, np.int64)
    for first in members:                       # largest first
        if out[first] >= 0:
            continue
        level[:] = np.inf
        stack[0], size = first, 1
        while size:
            size -= 1
            f = stack[size]
            if out[f] >= 0:
                continue
            clash = False
            for writing in (False, True):
                if writing and clash and f != first:
                    break
                # Cells that the face covers: another level there is an overlap.
                ax, ay = (flat[f, 0, 0] - low[0]) / cell, (flat[f, 0, 1] - low[1]) / cell
                bx, by = (flat[f, 1, 0] - low[0]) / cell, (flat[f, 1, 1] - low[1]) / cell
                cx, cy = (flat[f, 2, 0] - low[0]) / cell, (flat[f, 2, 1] - low[1]) / cell
                double = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
                if double <= 0.0:  # seen from behind, or edge-on: it may not share a chart
                    clash = True
                    continue
                for row in range(
                    int(max(0, min(ay, by, cy))), int(min(level.shape[0] - 1, max(ay, by, cy))) + 1
                ):
                    for col in range(
                        int(max(0, min(ax, bx, cx))),
                        int(min(level.shape[1] - 1, max(ax, bx, cx))) + 1,
                    ):
                        x, y = col + 0.5, row + 0.5
                        u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / double
                        v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / double
                        if u < 0.0 or v < 0.0 or u + v > 1.0:
                            continue
                        z = u * depth[f, 0] + v * depth[f, 1] + (1.0 - u - v) * depth[f, 2]
                        if writing:
                            level[row, col] = z
                        elif abs(level[row, col] - z) > tolerance and level[row, col] < np.inf:
                            clash = True
            if clash and f != first:
                continue
            # The face is in; its neighbors are tried next.
            out[f] = count
            for k in range(3):
                g = beyond[f, k]
                if g >= 0 and out[g] < 0 and chart[g] == chart[first] and size < len(stack):
                    stack[size] = g
                    size += 1
        count += 1
    return count


def _laid(chart, faces, flat):
    """Return Charts with shared corners, each turned so that its smallest rectangle is upright."""
    pair, where = np.unique(
        chart[:, None].astype(np.int64) * (int(faces.max()) + 1) + faces, return_inverse=True
    )
    where = where.reshape(-1, 3).astype(np.int32)
    corners = np.empty((len(pair), 2))
    corners[where.reshape(-1)] = flat.reshape(-1, 2)
    owner = pair // (int(faces.max()) + 1)
    start = np.searchsorted(owner, np.arange(owner[-1] + 2))
    for a, b in zip(start[:-1], start[1:]):
        points = corners[a:b] - corners[a:b].mean(0)
        size = max(np.abs(points).max(), 1e-30)
        turn = np.radians(cv2.minAreaRect((points / size).astype(np.float32))[2])
        c, s = np.cos(turn), np.sin(turn)
        points = points @ np.array([(c, -s), (s, c)])
        corners[a:b] = points - points.min(0)
    return Charts(chart, corners, where)
