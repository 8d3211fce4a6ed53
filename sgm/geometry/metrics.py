"""Mesh metrics: Chamfer distance, F-score, normal consistency, volumetric IoU.

The definitions, random numbers and order of triangles are those of the development objects'
eval_mesh.py, so figures agree to rounding; only the ray caster differs (exact crossings of columns
instead of Embree). Both meshes are expected in one world, z up, the true one inside [-0.5, 0.5]^3.
"""
from __future__ import annotations

import numpy as np
from numba import njit
from scipy import ndimage
from scipy.spatial import cKDTree

from sgm.geometry.topology import MERGE, areas, describe, face_normals, heights, weld

SAMPLES = 10_000    # points whose distance is taken, on each surface
# points that stand for the other surface; leaves a floor of about 0.002 between equal meshes
DENSE = 500_000
RESOLUTION = 64     # voxels per unit of length, for the IoU
HALF = 0.75         # the voxels cover [-HALF, HALF]^3
THRESHOLDS = (0.01, 0.02)


def prepared(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (N, 3) float64 and faces (M, 3) int32, welded, without degenerate triangles.

    Raises ValueError if no triangle is left.
    """
    vertices, faces = weld(np.asarray(vertices, np.float64), np.asarray(faces))
    faces = faces[heights(vertices, faces) > MERGE]
    if not len(faces):
        raise ValueError("the mesh has no triangle with an area")
    return vertices, faces


def sample(
    vertices: np.ndarray, faces: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (count, 3) uniform over the surface, and their faces' unit normals (count, 3).
    """
    rng = np.random.default_rng(seed)
    edges = np.cumsum(areas(vertices, faces))
    face = np.minimum(np.searchsorted(edges, rng.random(count) * edges[-1]), len(faces) - 1)
    u, v = rng.random((2, count))
    over = u + v > 1
    u[over], v[over] = 1 - u[over], 1 - v[over]
    p = vertices[faces[face]]
    points = p[:, 0] + u[:, None] * (p[:, 1] - p[:, 0]) + v[:, None] * (p[:, 2] - p[:, 0])
    return points, face_normals(vertices, faces)[face]


def sample_seen(vertices, faces, count: int, seed: int, seen=None) -> tuple[np.ndarray, np.ndarray]:
    """Return what `sample` does, of the part of the surface that is seen; None: of all of it.

    seen(points (N, 3)) -> bool (N,). Raises ValueError if it is less than a thousandth.
    """
    found, normals, drawn = [], [], 0
    while sum(map(len, found)) < count:
        points, facing = sample(vertices, faces, count, seed + 1000 * drawn)
        kept = np.ones(count, bool) if seen is None else seen(points)
        found.append(points[kept])
        normals.append(facing[kept])
        drawn += 1
        if sum(map(len, found)) < drawn * count / 1000:
            raise ValueError("no camera around the mesh sees its surface")
    return np.concatenate(found)[:count], np.concatenate(normals)[:count]


def compare(prediction, truth, samples: int = SAMPLES, dense: int = DENSE, seed: int = 0,
            outer=None) -> dict:
    """Return metrics of a predicted mesh against the true one, each vertices (N, 3), faces (M, 3).

    chamfer_l1: mean distance prediction to truth plus truth to prediction (pred_to_gt, gt_to_pred);
    fscore_t, precision_t, recall_t at distance t; normal_consistency: mean |cos| between normals at
    nearest points, and signed; iou of the interiors with iou_mode 'parity' (both watertight) or
    'fill'; hausdorff; of the prediction: faces, components, boundary edges, watertight. outer: the
    `sgm.render.visible.OuterSurface` of both; then the true surface is only what is seen, and
    volumes are what they hold (iou_mode 'visible'). Raises ValueError for a mesh without area, and
    for a true one of which nothing is seen.
    """
    # Samples, and distances between them.
    predicted, true = prepared(*prediction), prepared(*truth)
    seen = outer[1].sees if outer else None
    p, p_normal = sample(*predicted, samples, seed)
    q, q_normal = sample_seen(*true, samples, seed + 1, seen)
    true_cloud, true_normal = sample_seen(*true, dense, seed + 2, seen)
    cloud, normal = sample(*predicted, dense, seed + 3)
    forth, at_true = cKDTree(true_cloud).query(p)
    back, at_predicted = cKDTree(cloud).query(q)
    out = dict(
        chamfer_l1=forth.mean() + back.mean(),
        chamfer_l2=(forth**2).mean() + (back**2).mean(),
        pred_to_gt=forth.mean(),
        gt_to_pred=back.mean(),
        hausdorff=max(forth.max(), back.max()),
    )
    for t in THRESHOLDS:
        precision, recall = (forth < t).mean(), (back < t).mean()
        out |= {f"fscore_{t:g}": 2 * precision * recall / max(precision + recall, 1e-12),
                f"precision_{t:g}": precision, f"recall_{t:g}": recall}
    # Normals at nearest points.
    agree = [(p_normal * true_normal[at_true]).sum(1), (q_normal * normal[at_predicted]).sum(1)]
    out["normal_consistency"] = np.mean([np.abs(a).mean() for a in agree])
    out["normal_consistency_signed"] = np.mean([a.mean() for a in agree])
    # Interiors.
    shape, true_shape = describe(*predicted), describe(*true)
    if outer:
        mode = "visible"
        a, b = (inside_by_carving(each) for each in outer)
    else:
        mode = "parity" if is_closed(shape) and is_closed(true_shape) else "fill"
        inside = inside_by_parity if mode == "parity" else inside_by_filling
        a, b = inside(*predicted), inside(*true)
    out |= dict(iou=(a & b).sum() / max((a | b).sum(), 1), vol_pred=a.sum() / RESOLUTION ** 3,
                vol_gt=b.sum() / RESOLUTION ** 3)
    out = {key: float(value) for key, value in out.items()}
    return out | dict(
        iou_mode=mode,
        pred_faces=shape["faces"],
        gt_faces=true_shape["faces"],
        pred_components=shape["components"],
        pred_boundary_edges=shape["boundary_edges"],
        pred_watertight=is_closed(shape),
        gt_watertight=is_closed(true_shape),
    )


def by_authors(prediction, truth) -> dict:
    """Return the Chamfer distance and IoU that SV3D's authors print, of vertices (N, 3) and faces.

    Not to be put beside those of `compare`: each mesh is scaled and centered by its own box, whose
    largest side becomes 1, so size and place do not count. chamfer: half the sum of the mean
    distances from each vertex of one to the nearest vertex of the other, which depends on how
    surfaces are cut into triangles. iou: of the grid points -1 + k / 32 inside; None unless both
    are closed. Source: scripts/eval_mesh.py of claforte/threestudio, commit d8a79f4, and mesh2sdf.
    """
    (p, p_faces), (q, q_faces) = (
        (_in_unit_box(np.asarray(vertices, np.float64)), faces)
        for vertices, faces in (prediction, truth)
    )
    chamfer = (cKDTree(q).query(p)[0].mean() + cKDTree(p).query(q)[0].mean()) / 2
    welded = [prepared(p, p_faces), prepared(q, q_faces)]
    iou = None
    if all(is_closed(describe(*mesh)) for mesh in welded):
        a, b = (inside_by_parity(*mesh, centers=np.arange(-32, 32) / 32) for mesh in welded)
        iou = float((a & b).sum() / max((a | b).sum(), 1))
    return dict(chamfer=float(chamfer), iou=iou)


def _in_unit_box(vertices):
    low, high = vertices.min(0), vertices.max(0)
    return (vertices - (low + high) / 2) / (high - low).max()


def is_closed(shape: dict) -> bool:
    """Return whether every edge has exactly two faces, in any orientation: enough for parity."""
    return shape["faces"] > 0 and not shape["boundary_edges"] and not shape["branching_edges"]


def _centers() -> np.ndarray:
    return (np.arange(round(2 * HALF * RESOLUTION)) + 0.5) / RESOLUTION - HALF


def inside_by_parity(
    vertices: np.ndarray, faces: np.ndarray, centers: np.ndarray | None = None
) -> np.ndarray:
    """Return bool (n, n, n): voxel centers that are inside by the parity of crossings.

    centers: their coordinates along each axis, (n,), evenly spaced; by default those of `compare`.
    A ray from an inside point crosses the surface an odd number of times; two axes of three decide.
    """
    centers = _centers() if centers is None else centers
    votes = np.zeros((len(centers),) * 3, np.int8)
    rng = np.random.default_rng(0)
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        off = ((rng.random((len(centers) ** 2, 2)) - 0.5) * 1e-4).reshape(
            len(centers), len(centers), 2
        )
        p = np.ascontiguousarray(vertices[:, [*others, axis]])
        votes += np.moveaxis(_odd(p, faces, centers, off), 2, axis)
    return votes >= 2


def inside_by_carving(outer) -> np.ndarray:
    """Return bool (n, n, n): voxel centers that an OuterSurface holds."""
    centers = _centers()
    grid = np.stack(np.meshgrid(centers, centers, centers, indexing="ij"), -1)
    return outer.holds(grid.reshape(-1, 3)).reshape(grid.shape[:3])


@njit(cache=True)
def _odd(p, faces, centers, off):
    """Return int8 (n, n, n): 1 where the crossings beyond a voxel center are odd in number.

    Crossings are counted along the third coordinate.
    """
    n = len(centers)
    step = centers[1] - centers[0]
    odd = np.zeros((n, n, n), np.int8)
    for f in range(len(faces)):
        a, b, c = p[faces[f, 0]], p[faces[f, 1]], p[faces[f, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area == 0.0:
            continue
        low = [max(0, int((min(a[k], b[k], c[k]) - centers[0]) / step) - 1) for k in range(2)]
        high = [min(n - 1, int((max(a[k], b[k], c[k]) - centers[0]) / step) + 1) for k in range(2)]
        for i in range(low[0], high[0] + 1):
            for j in range(low[1], high[1] + 1):
                x, y = centers[i] + off[i, j, 0], centers[j] + off[i, j, 1]
                u = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area
                v = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area
                if u < 0.0 or v < 0.0 or u + v > 1.0:
                    continue
                z = u * a[2] + v * b[2] + (1.0 - u - v) * c[2]
                for k in range(n):
                    if centers[k] >= z:
                        break
                    odd[i, j, k] ^= 1
    return odd


def inside_by_filling(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return bool (n, n, n): voxels of the surface, and those that a flood from outside misses.

    Gaps of up to 6 voxels are closed. The gap closed is the smallest whose filled volume is at
    least 80 % of that for 6, so that holes do not empty an object.
    """
    n = len(_centers())
    count = int(min(4_000_000, max(400_000, areas(vertices, faces).sum() * RESOLUTION ** 2 * 60)))
    points = np.vstack([sample(vertices, faces, count, 1)[0], vertices])
    index = np.floor((points + HALF) * RESOLUTION).astype(int)
    surface = np.zeros((n, n, n), bool)
    surface[tuple(index[((index >= 0) & (index < n)).all(1)].T)] = True

    def filled(radius):
        if not radius:
            return ndimage.binary_fill_holes(surface)
        inside = ndimage.binary_fill_holes(ndimage.binary_dilation(surface, iterations=radius))
        return surface | ~ndimage.binary_dilation(~inside, iterations=radius)
    largest = filled(3)
    for radius in range(3):
        found = filled(radius)
        if found.sum() >= 0.8 * largest.sum():
            return found
    return largest
