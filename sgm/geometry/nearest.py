"""Nearest of many points: a k-d tree in numba (Bentley 1975), for clouds of a million points on a host."""
from __future__ import annotations

import numpy as np
from numba import njit

LEAF = 12       # points left unsplit


class Cloud:
    """Points (N, 3), N > 0, ready to be asked.  Building takes about a second per million."""

    def __init__(self, points: np.ndarray):
        points = np.ascontiguousarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
            raise ValueError(f"points have shape {points.shape}; expected (N, 3) finite numbers, N > 0")
        self.order = np.arange(len(points))
        nodes = 1
        while len(points) // nodes > LEAF:
            nodes *= 2
        self.axis, self.split = np.zeros(nodes - 1, np.int8), np.zeros(nodes - 1)
        _build(points, self.order, self.axis, self.split)
        self.points = points[self.order]

    def query(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """-> distance (M,) float64 to the nearest point of the cloud, and its index (M,) int64."""
        distance, found = _query(self.points, self.axis, self.split, np.ascontiguousarray(points, np.float64))
        return distance, self.order[found]


@njit(cache=True)
def _build(points, order, axis, split):
    """Sort `order` so that node i of the heap-numbered tree, over [low, high), is split at its middle,
    where the coordinate axis[i] is split[i]."""
    low, high = np.zeros(len(axis) * 2 + 1, np.int64), np.zeros(len(axis) * 2 + 1, np.int64)
    high[0] = len(points)
    for node in range(len(axis)):
        a, b = low[node], high[node]
        widest, best = 0, -1.0
        for k in range(3):
            least, most = np.inf, -np.inf
            for i in range(a, b):
                x = points[order[i], k]
                least, most = min(least, x), max(most, x)
            if most - least > best:
                widest, best = k, most - least
        axis[node] = widest
        middle = (a + b) // 2
        i, j = a, b - 1
        while i < j:                            # quickselect: what is before the middle is not greater than what is there
            pivot = points[order[(i + j) // 2], widest]
            p, q = i, j
            while p <= q:
                while points[order[p], widest] < pivot:
                    p += 1
                while points[order[q], widest] > pivot:
                    q -= 1
                if p <= q:
                    order[p], order[q] = order[q], order[p]
                    p += 1
                    q -= 1
            if middle <= q:
                j = q
            elif middle >= p:
                i = p
            else:
                break
        split[node] = points[order[middle], widest]
        low[2 * node + 1], high[2 * node + 1] = a, middle
        low[2 * node + 2], high[2 * node + 2] = middle, b


@njit(cache=True)
def _query(points, axis, split, asked):
    distance, found = np.empty(len(asked)), np.empty(len(asked), np.int64)
    inner = len(axis)
    node_of, a_of, b_of, off_of = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64)
    for m in range(len(asked)):
        x, y, z = asked[m]
        best, at = np.inf, 0
        node_of[0], a_of[0], b_of[0], off_of[0] = 0, 0, len(points), 0.0
        size = 1
        while size:
            size -= 1
            if off_of[size] >= best:
                continue
            node, a, b = node_of[size], a_of[size], b_of[size]
            if node >= inner:
                for i in range(a, b):
                    d = (points[i, 0] - x) ** 2 + (points[i, 1] - y) ** 2 + (points[i, 2] - z) ** 2
                    if d < best:
                        best, at = d, i
                continue
            middle = (a + b) // 2
            beyond = asked[m, axis[node]] - split[node]
            far = 1 if beyond < 0 else 0        # the farther half goes under the nearer one on the stack
            for half in (far, 1 - far):
                node_of[size] = 2 * node + 1 + half
                a_of[size], b_of[size] = (a, middle) if half == 0 else (middle, b)
                off_of[size] = beyond * beyond if half == far else 0.0
                size += 1
        distance[m], found[m] = np.sqrt(best), at
    return distance, found
