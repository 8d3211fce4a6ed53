"""Marching tetrahedra against closed forms: area, volume, Euler characteristic, closedness, direction of faces."""
import numpy as np
import pytest

from sgm.geometry.topology import face_neighbors
from sgm.reconstruct.dmtet import marching_tets, tet_grid

HALF = 0.55


def surface(values, resolution, seal=True):
    """Vertices and faces of a function of points (N, 3)."""
    sdf = values(tet_grid.positions(resolution, HALF).astype(np.float64)).reshape([resolution + 1] * 3)
    sdf = tet_grid.sealed(sdf, HALF) if seal else sdf.astype(np.float32)
    edges, faces = marching_tets.march(sdf)
    a, b = (tet_grid.positions(resolution, HALF, edges[:, i]) for i in (0, 1))
    flat = sdf.reshape(-1)
    return marching_tets.crossings(flat[edges[:, 0]], flat[edges[:, 1]], a, b), faces


def measures(vertices, faces):
    """Area, volume (positive if faces point outwards), Euler characteristic."""
    p = vertices[faces].astype(np.float64)
    normal = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    volume = np.einsum("ni,ni->n", p[:, 0], normal).sum() / 6
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    return np.linalg.norm(normal, axis=1).sum() / 2, volume, len(np.unique(faces)) - len(edges) + len(faces)


def is_closed(faces):
    """Every side is in exactly two faces, once in each direction."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    code = sides[:, 0] * (faces.max() + 1) + sides[:, 1]
    back = sides[:, 1] * (faces.max() + 1) + sides[:, 0]
    return len(np.unique(code)) == len(code) and set(code) == set(back)


def sphere(center, radius):
    return lambda p: np.linalg.norm(p - center, axis=1) - radius


def torus(p):
    return np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.3, p[:, 2]) - 0.12


def both(p):
    return np.minimum(sphere((-0.25, 0, 0), 0.2)(p), sphere((0.28, 0.1, 0), 0.15)(p))


@pytest.mark.parametrize("shape, area, volume, euler", [
    (sphere((0.013, 0, -0.02), 0.4), 4 * np.pi * 0.16, 4 / 3 * np.pi * 0.064, 2),
    (torus, 4 * np.pi ** 2 * 0.3 * 0.12, 2 * np.pi ** 2 * 0.3 * 0.0144, 0),
    (both, 4 * np.pi * (0.04 + 0.0225), 4 / 3 * np.pi * (0.008 + 0.003375), 4),
])
def test_closed_forms(shape, area, volume, euler):
    errors = []
    for resolution in (32, 64):
        vertices, faces = surface(shape, resolution)
        assert is_closed(faces)
        found = measures(vertices, faces)
        assert found[2] == euler
        errors.append((abs(found[0] / area - 1), abs(found[1] / volume - 1)))
        assert np.abs(shape(vertices.astype(np.float64))).max() < 0.4 * (1.1 / resolution) ** 2 / 0.12   # h^2 / radius
    assert max(errors[1]) < 0.01 and errors[1][1] < 0.35 * errors[0][1]          # of second order


def test_closed_whatever_the_values():
    rng = np.random.default_rng(1)
    for grid in (rng.standard_normal((13, 13, 13)), np.full((13, 13, 13), -1.0), np.zeros((13, 13, 13))):
        grid[6, 6, 6] = -1
        _, faces = marching_tets.march(tet_grid.sealed(grid, HALF))
        assert len(faces) and is_closed(faces)


def test_closed_at_the_box_only_when_sealed():
    for seal in (True, False):
        vertices, faces = surface(sphere((0.3, 0, 0), 0.5), 16, seal)
        assert is_closed(faces) == seal
    assert np.abs(vertices).max() < HALF + 1e-6


def test_a_plane_in_one_tetrahedron_grid_by_hand():
    sdf = np.full((2, 2, 2), 0.5, np.float32)
    sdf[0, 0, 0] = -0.5                         # its seven edges are crossed in the middle, in six tetrahedra
    edges, faces = marching_tets.march(sdf)
    assert sorted(map(tuple, edges.tolist())) == [(0, k) for k in range(1, 8)] and len(faces) == 6
    points = marching_tets.crossings(np.full(7, -0.5), np.full(7, 0.5), *(tet_grid.positions(1, 0.5, edges[:, i]) for i in (0, 1)))
    np.testing.assert_allclose(points, tet_grid.positions(1, 0.5, edges[:, 1]) / 2 - 0.25)
    p = points[faces]
    assert (np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]).sum(axis=1) > 0).all()           # away from the corner


def test_faces_around_a_marched_surface():
    _, faces = surface(torus, 24)
    around = face_neighbors(faces)
    for i in range(3):
        mine = np.sort(np.stack([faces[:, i], faces[:, (i + 1) % 3]], axis=1), axis=1)
        other = np.sort(faces[around[:, i]], axis=1)
        assert all(set(side) <= set(corners) for side, corners in zip(mine.tolist(), other.tolist()))
        assert (around[:, i] != np.arange(len(faces))).all()
    assert face_neighbors(np.array([[0, 1, 2], [2, 1, 3]], np.int32)).tolist() == [[-1, 1, -1], [0, -1, -1]]
