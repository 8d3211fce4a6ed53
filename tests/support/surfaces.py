"""Surfaces of grids and flat ones, their outlines, and tensors of their points."""
import numpy as np
from mindspore import Tensor

from sgm.geometry import topology
from sgm.reconstruct.dmtet import marching_tets, rasterizer, tet_grid
from sgm.reconstruct.posed_views import HALF
from sgm.views.cameras import camera_to_world, focal_length

SIZE = 144
FOCAL = focal_length(SIZE)
CENTERED = np.array([FOCAL, FOCAL, SIZE / 2, SIZE / 2])
FRONT = camera_to_world(0.0, 0.0, 2.0)
RESOLUTION = 20


def triple(array):
    """(N, 3) as three tensors."""
    return tuple(Tensor(np.ascontiguousarray(array[:, i], np.float32)) for i in range(3))


def extract(sdf, half=0.55):
    """Vertices, faces and edges of a grid."""
    sdf = tet_grid.sealed(sdf, half)
    edges, faces = marching_tets.march(sdf)
    a, b = (tet_grid.positions(sdf.shape[0] - 1, half, edges[:, i]) for i in (0, 1))
    flat = sdf.reshape(-1)
    return marching_tets.crossings(flat[edges[:, 0]], flat[edges[:, 1]], a, b), faces, edges


def spheres(resolution, *balls):
    p = tet_grid.positions(resolution, 0.55).astype(np.float64)
    return np.min([np.linalg.norm(p - center, axis=1) - radius for center, radius in balls], axis=0).reshape(
        [resolution + 1] * 3)


def rectangle(half_y, half_z, x=0.0):
    vertices = np.array([(x, -half_y, -half_z), (x, half_y, -half_z), (x, half_y, half_z), (x, -half_y, half_z)], float)
    return vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def found_outline(vertices, faces, c2w=FRONT, intrinsics=CENTERED, size=SIZE):
    ids, depth = rasterizer.face_ids(vertices, faces, c2w, intrinsics, size, size)
    around = topology.face_neighbors(faces)
    return ids, depth, rasterizer.outline(vertices, faces, around, ids, depth, c2w, intrinsics)


def ball(radius, center=(0, 0, 0), resolution=RESOLUTION):
    p = tet_grid.positions(resolution, HALF).astype(np.float64)
    return (np.linalg.norm(p - center, axis=1) - radius).reshape([resolution + 1] * 3).astype(np.float32)
