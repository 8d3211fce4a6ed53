"""Mesh decimation: edge collapse by quadric error (Garland and Heckbert 1997), in numba.

An edge is collapsed only where the surface keeps its topology: the link condition (Dey et al. 1999)
keeps a closed mesh closed and its handles. No triangle may turn over or become a needle, boundaries
hold, and edges of more than two faces stay.
"""
from __future__ import annotations

import heapq

import numpy as np
from numba import njit

from sgm.geometry.topology import edge_groups

# towards the edge's middle, relative to the quadric: where the surface is flat the optimum is
# anywhere
PULL = 1e-4
TURN = 0.2          # least cosine between a triangle's normals before and after
NEEDLE = 0.02       # least height of a new triangle by its longest side, unless it was worse before
BOUNDARY = 100.0    # weight of the planes that hold a boundary in place
FLAT = 1e-6         # share of the squared length in the cost: among equals, short edges go first


def decimate(
    vertices: np.ndarray, faces: np.ndarray, budget: int, shortest: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Collapse edges, the least error first, until at most `budget` faces are left.

    vertices (N, 3), faces (M, 3), one vertex per place. It ends earlier if no edge may be
    collapsed. Edges shorter than `shortest` are collapsed at any budget.
    Return vertices (K, 3) float64, faces (L, 3) int32, without unused vertices. Time grows with M
    log M: a second per 100 000.
    """
    points, corners = np.array(vertices, np.float64), np.array(faces, np.int32)
    order, start = edge_groups(corners)
    counts = np.diff(start)
    border = order[start[:-1][counts == 1]]
    rim, locked = np.zeros(len(points), np.bool_), np.zeros(len(points), np.bool_)
    for k in (0, 1):
        rim[corners[border // 3, (border + k) % 3]] = True
        if (counts > 2).any():
            branching = order[start[:-1][counts > 2]]
            locked[corners[branching // 3, (branching + k) % 3]] = True
    center = points.mean(0)
    points -= center
    alive = _collapse(points, corners, order[start[:-1]], border, rim, locked, budget, shortest)
    used, corners = np.unique(corners[alive], return_inverse=True)
    return points[used] + center, corners.reshape(-1, 3).astype(np.int32)


@njit(cache=True)
def _add_plane(q, n, d, weight):
    """Add weight (n x + d)^2 to a quadric: xx xy xz yy yz zz, x y z, constant."""
    q[0] += weight * n[0] * n[0]
    q[1] += weight * n[0] * n[1]
    q[2] += weight * n[0] * n[2]
    q[3] += weight * n[1] * n[1]
    q[4] += weight * n[1] * n[2]
    q[5] += weight * n[2] * n[2]
    q[6] += weight * n[0] * d
    q[7] += weight * n[1] * d
    q[8] += weight * n[2] * d
    q[9] += weight * d * d


@njit(cache=True)
def _cross(a, b, c):
    """Return twice the area vector of a triangle."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@njit(cache=True)
def _quadrics(points, faces, border):
    out = np.zeros((len(points), 10))
    n = np.empty(3)
    for f in range(len(faces)):
        a, b, c = points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]]
        n[0], n[1], n[2] = _cross(a, b, c)
        length = np.sqrt((n * n).sum())
        if length == 0.0:
            continue
        n /= length
        for k in range(3):
            _add_plane(out[faces[f, k]], n, -(n * a).sum(), length / 2)
    for h in border:
        f, k = h // 3, h % 3
        i, j = faces[f, k], faces[f, (k + 1) % 3]
        x, y, z = _cross(points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]])
        s = points[j] - points[i]
        n[0], n[1], n[2] = s[1] * z - s[2] * y, s[2] * x - s[0] * z, s[0] * y - s[1] * x
        length = np.sqrt((n * n).sum())
        if length > 0.0:
            n /= length
            for v in (i, j):
                _add_plane(out[v], n, -(n * points[i]).sum(), BOUNDARY * (s * s).sum())
    return out


@njit(cache=True)
def _place(points, quadrics, u, v, target):
    """Write the best place for u and v as one vertex into `target`. Return its cost."""
    q = quadrics[u] + quadrics[v]
    middle = (points[u] + points[v]) / 2
    pull = PULL * (q[0] + q[3] + q[5]) + 1e-300
    a, b, c, d, e, f = q[0] + pull, q[1], q[2], q[3] + pull, q[4], q[5] + pull
    r0, r1, r2 = pull * middle[0] - q[6], pull * middle[1] - q[7], pull * middle[2] - q[8]
    m0, m1, m2 = d * f - e * e, c * e - b * f, b * e - c * d
    det = a * m0 + b * m1 + c * m2  # positive: a sum of squares and a multiple of the identity
    if det > 0.0:
        target[0] = (m0 * r0 + m1 * r1 + m2 * r2) / det
        target[1] = (m1 * r0 + (a * f - c * c) * r1 + (b * c - a * e) * r2) / det
        target[2] = (m2 * r0 + (b * c - a * e) * r1 + (a * d - b * b) * r2) / det
    else:
        target[:] = middle
    x, y, z = target
    cost = (
        q[0] * x * x
        + q[3] * y * y
        + q[5] * z * z
        + 2 * (q[1] * x * y + q[2] * x * z + q[4] * y * z)
        + 2 * (q[6] * x + q[7] * y + q[8] * z)
        + q[9]
    )
    side = points[u] - points[v]
    return max(cost, 0.0) + FLAT * (q[0] + q[3] + q[5]) * (side * side).sum()


@njit(cache=True)
def _worsens(points, faces, head, after, alive, u, v, target):
    """Return whether moving u and v to `target` turns a triangle over or makes a needle of it."""
    for end, other in ((u, v), (v, u)):
        h = head[end]
        while h >= 0:
            f = h // 3
            i, j = faces[f, (h + 1) % 3], faces[f, (h + 2) % 3]
            if alive[f] and i != other and j != other:
                a, b = points[i], points[j]
                x, y, z = _cross(points[end], a, b)
                p, q, r = _cross(target, a, b)
                before, now = np.sqrt(x * x + y * y + z * z), np.sqrt(p * p + q * q + r * r)
                if x * p + y * q + z * r < TURN * before * now or now == 0.0:
                    return True
                base = ((a - b) ** 2).sum()
                longest = max(base, max(((target - a) ** 2).sum(), ((target - b) ** 2).sum()))
                if now < NEEDLE * longest:
                    earlier = max(
                        base, max(((points[end] - a) ** 2).sum(), ((points[end] - b) ** 2).sum())
                    )
                    if now * earlier <= before * longest:
                        return True
            h = after[h]
    return False


@njit(cache=True)
def _around(faces, head, after, alive, v, mark, stamp, found):
    """Write the neighbors of v into `found`, mark them with `stamp`, and return their number."""
    count = 0
    h = head[v]
    while h >= 0:
        f = h // 3
        if alive[f]:
            for k in range(3):
                w = faces[f, k]
                if w != v and mark[w] != stamp:
                    mark[w] = stamp
                    found[count] = w
                    count += 1
        h = after[h]
    return count


@njit(cache=True)
def _collapse(points, faces, first, border, rim, locked, budget, shortest):
    """Collapse edges in place. Return which faces are left, bool (M,).

    Points move, and faces name the vertices that theirs have become.
    """
    count = len(faces)
    head, after = np.full(len(points), -1, np.int64), np.full(3 * count, -1, np.int64)
    for h in range(3 * count):
        v = faces[h // 3, h % 3]
        after[h], head[v] = head[v], h
    alive = np.ones(count, np.bool_)
    version = np.zeros(len(points), np.int64)
    quadrics = _quadrics(points, faces, border)
    mark, found, others = (
        np.full(len(points), -1, np.int64),
        np.empty(len(points), np.int64),
        np.empty(len(points), np.int64),
    )
    target, stamp, left = np.empty(3), 0, count
    # The cost of every edge; edges below `shortest` come first, with a negative one.
    heap = [(0.0, np.int64(0), np.int64(0), np.int64(-1)) for _ in range(0)]
    for h in first:
        u, v = np.int64(faces[h // 3, h % 3]), np.int64(faces[h // 3, (h + 1) % 3])
        if not locked[u] and not locked[v]:
            cost = _place(points, quadrics, u, v, target)
            side = np.sqrt(((points[u] - points[v]) ** 2).sum())
            heap.append((side - shortest if side < shortest else cost, u, v, np.int64(0)))
    heapq.heapify(heap)
    while len(heap):
        cost, u, v, age = heapq.heappop(heap)
        if left <= budget and cost >= 0.0:
            break
        if version[u] < 0 or version[v] < 0 or version[u] + version[v] != age:
            continue
        # The two faces of the edge must be all that its ends have in common, or the surface would
        # be pinched.
        stamp += 1
        n_u = _around(faces, head, after, alive, u, mark, stamp, found)
        stamp += 1
        n_v = _around(faces, head, after, alive, v, mark, stamp, others)
        common = 0
        for i in range(n_u):
            common += mark[found[i]] == stamp
        shared, tight = 0, False
        h = head[u]
        while h >= 0:
            f = h // 3
            if alive[f] and (faces[f, 0] == v or faces[f, 1] == v or faces[f, 2] == v):
                shared += 1
                w = faces[f, 0] + faces[f, 1] + faces[f, 2] - u - v
                stamp += 1
                tight |= (
                    not rim[w] and _around(faces, head, after, alive, w, mark, stamp, others) <= 3
                )
            h = after[h]
        if (
            common != shared
            or tight
            or (shared == 2 and rim[u] and rim[v])
            or shared > 2
            or shared == 0
        ):
            continue
        _place(points, quadrics, u, v, target)
        if rim[u] != rim[v]:
            target[:] = points[u] if rim[u] else points[v]
        if _worsens(points, faces, head, after, alive, u, v, target):
            continue
        # u becomes v
        points[v] = target
        quadrics[v] += quadrics[u]
        rim[v] |= rim[u]
        version[u] = -1
        version[v] += 1
        last, kept = np.int64(-1), np.int64(-1)
        for end in (u, v):
            h = head[end]
            while h >= 0:
                then, f = after[h], h // 3
                if alive[f]:
                    if end == u:
                        if faces[f, 0] == v or faces[f, 1] == v or faces[f, 2] == v:
                            alive[f] = False
                            left -= 1
                        else:
                            faces[f, h % 3] = v
                    if alive[f]:
                        if last < 0:
                            kept = h
                        else:
                            after[last] = h
                        last = h
                h = then
        head[v] = kept
        if last >= 0:
            after[last] = -1
        stamp += 1
        n_v = _around(faces, head, after, alive, v, mark, stamp, others)
        for i in range(n_v):
            w = others[i]
            if not locked[w]:
                cost = _place(points, quadrics, v, w, target)
                side = np.sqrt(((points[v] - points[w]) ** 2).sum())
                heapq.heappush(
                    heap,
                    (side - shortest if side < shortest else cost, v, w, version[v] + version[w]),
                )
    return alive
