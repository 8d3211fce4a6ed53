"""Texture atlas: charts packed into a square by their outlines, in bounded time.

They fall into place like blocks in Tetris (Levy et al. 2002).
"""
from __future__ import annotations

import logging

import numpy as np
from numba import njit

from sgm.common.errors import InputError
from sgm.reconstruct.texture import charts

TRIALS = 14                 # bisections of the scale
log = logging.getLogger("sgm")


def unwrap(
    vertices: np.ndarray,
    faces: np.ndarray,
    size: int,
    padding: int,
    weight: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return texture coordinates uv (K, 2) float32, and their rows face_uv (M, 3) int32.

    uv is in [0, 1], v up. vertices (N, 3), faces (M, 3), M > 0. size: texels per side; padding:
    texels left free around every chart, fewer if there are too many charts for it.
    weight (M,): how finely a face should be sampled, relative to the others; a chart gets its
    faces' mean.
    No texel belongs to two charts. Raises InputError if the charts do not fit even with next to no
    texels each.
    """
    cut = charts.cut(vertices, faces)
    count = int(cut.label.max()) + 1
    flat = cut.corners[cut.face_corners]
    area = np.abs(np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])) / 2 + 1e-30
    scale = (
        np.ones(count)
        if weight is None
        else np.bincount(cut.label, area * weight) / np.bincount(cut.label, area)
    )
    owner = np.zeros(len(cut.corners), np.int64)
    owner[cut.face_corners] = cut.label[:, None]
    corners = cut.corners * scale[owner][:, None]
    order = np.argsort(cut.label, kind="stable")
    start = np.searchsorted(cut.label[order], np.arange(count + 1))
    best, room = None, padding
    # thousands of charts, of a ragged surface: better close together than none
    while best is None and room >= 0:
        best = _largest(
            corners,
            cut.face_corners,
            order,
            start,
            size,
            room,
            (area * scale[cut.label] ** 2).sum(),
        )
        room = min(room - 1, 1)
    if best is None:
        raise InputError(
            f"texture atlas: {count} charts do not fit into {size} x {size} texels; give a larger"
            " texture or fewer faces"
        )
    (shift, turn), factor = best
    spots = _turned(corners * factor, owner, turn) + shift[owner]
    log.info("atlas: %d charts, %.0f %% of %d x %d texels used", count,
             100 * (area * (scale[cut.label] * factor) ** 2).sum() / size ** 2, size, size)
    uv = spots / size
    return np.stack([uv[:, 0], 1 - uv[:, 1]], 1).astype(np.float32), cut.face_corners


def _largest(corners, face_corners, order, start, size, padding, area):
    """Pack at the largest scale that bisection finds.

    Return ((shift, quarter turns), scale), or None if none fits. area: of all charts at scale 1.
    """
    # at `high` they would fill the square without gaps
    low, high, best = 0.0, np.sqrt(size * size / area), None
    for trial in range(TRIALS):
        middle = high * 0.6 if trial == 0 else (low + high) / 2
        placed = _pack(corners * middle, face_corners, order, start, size, padding)
        if placed is None:
            high = middle
        else:
            low, best = middle, (placed, middle)
        if high - low < 0.004 * high:
            break
    return best


def _turned(corners, owner, turn):
    """Return corners (K, 2) after `turn` quarter turns of each chart's rectangle; rows run down.

    Each chart lies at its own origin.
    """
    top = np.zeros((len(turn), 2))
    np.maximum.at(top, owner, corners)
    x, y, (width, height) = corners[:, 0], corners[:, 1], top[owner].T
    quarter = turn[owner][:, None]
    return np.select([quarter == 0, quarter == 1, quarter == 2], [
        np.stack([x, y], 1), np.stack([height - y, x], 1), np.stack([width - x, height - y], 1)],
        np.stack([y, width - x], 1))


def _pack(corners, face_corners, order, start, size, padding):
    """Return (shift (C, 2), quarter turns (C,)) of every chart in texels, or None.

    None means that they do not fit.
    """
    count = len(start) - 1
    outlines, spans = [], np.zeros((count, 2))
    for c in range(count):
        triangles = corners[face_corners[order[start[c]:start[c + 1]]]]
        spans[c] = triangles.reshape(-1, 2).max(0)
        outlines.append(triangles)
    if (spans.max() + 2 * padding + 2) > size or (spans.prod(1) * 0.2).sum() > size * size:
        return None
    ranks = np.argsort(-spans.max(1), kind="stable")
    horizon = np.zeros(size, np.int64)
    shift, turn = np.zeros((count, 2)), np.zeros(count, np.int64)
    for c in ranks:
        found = _drop(outlines[c], spans[c], horizon, size, padding)
        if found[0] < 0:
            return None
        turn[c] = found[0]
        shift[c] = found[1], found[2]
    return shift, turn


@njit(cache=True)
def _profile(triangles, span, quarter, padding, low, high):
    """Write the lowest and highest row that a turned chart covers in every column.

    Return the number of columns. The padding is included: the chart's own corner lies `padding`
    texels into its rectangle.
    """
    width = span[0] if quarter % 2 == 0 else span[1]
    columns = int(np.ceil(width)) + 2 * padding + 1
    low[:columns], high[:columns] = 1 << 40, -1
    x, y = np.empty(3), np.empty(3)
    for f in range(len(triangles)):
        for k in range(3):
            a, b = triangles[f, k, 0], triangles[f, k, 1]
            if quarter == 1:
                a, b = span[1] - b, a
            elif quarter == 2:
                a, b = span[0] - a, span[1] - b
            elif quarter == 3:
                a, b = b, span[0] - a
            x[k], y[k] = a, b
        for col in range(int(x.min()), int(x.max()) + 1):
            least, most = np.inf, -np.inf
            for k in range(3):                  # what of the triangle's sides lies over this column
                xa, ya, xb, yb = x[k], y[k], x[(k + 1) % 3], y[(k + 1) % 3]
                if xa > xb:
                    xa, ya, xb, yb = xb, yb, xa, ya
                left, right = max(xa, float(col)), min(xb, col + 1.0)
                if left > right:
                    continue
                for at in (left, right):
                    value = ya if xb == xa else ya + (yb - ya) * (at - xa) / (xb - xa)
                    least, most = min(least, value), max(most, value)
                if xa == xb:
                    least, most = min(least, yb), max(most, yb)
            if most < least:
                continue
            for c in range(col, min(col + 2 * padding + 1, columns)):
                low[c] = min(low[c], int(least))
                high[c] = max(high[c], int(most) + 2 * padding + 1)
    return columns


@njit(cache=True)
def _drop(triangles, span, horizon, size, padding):
    """Let one chart fall where it ends lowest, and raise the horizon.

    Return (quarter turn or -1, x, y of its corner).
    """
    low, high = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    best = (-1, 0, 0)
    least_end, least_waste = np.int64(1 << 40), np.int64(1 << 40)
    for quarter in range(4):
        columns = _profile(triangles, span, quarter, padding, low, high)
        tall = high[:columns].max()
        for x in range(size - columns + 1):
            y = np.int64(0)
            for c in range(columns):
                if high[c] >= 0:
                    y = max(y, horizon[x + c] - low[c])
            end = y + tall
            if end > size or end > least_end:
                continue
            waste = np.int64(0)
            for c in range(columns):
                if high[c] >= 0:
                    waste += y + low[c] - horizon[x + c]
            if end < least_end or waste < least_waste:
                best, least_end, least_waste = (quarter, x, y), end, waste
    quarter, x, y = best
    if quarter >= 0:
        columns = _profile(triangles, span, quarter, padding, low, high)
        for c in range(columns):
            if high[c] >= 0:
                horizon[x + c] = y + high[c]
    return quarter, x + padding, y + padding
