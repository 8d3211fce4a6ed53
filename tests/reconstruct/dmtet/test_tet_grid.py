"""The Kuhn grid: it fills the box once, its neighbors fit, deformation folds nothing, sealing closes."""
import numpy as np
import pytest

from sgm.reconstruct.dmtet import tet_grid


def tetrahedra_of(resolution):
    """All tetrahedra of the grid as vertex numbers, (6 R^3, 4) int."""
    x, y, z = np.meshgrid(*[np.arange(resolution)] * 3, indexing="ij")
    lowest = (x * (resolution + 1) + y) * (resolution + 1) + z
    return (lowest.reshape(-1, 1, 1) + tet_grid.corner_offsets(resolution)[tet_grid.corner_paths()]).reshape(-1, 4)


def volumes(points, tetrahedra):
    a, b, c, d = (points[tetrahedra[:, i]].astype(np.float64) for i in range(4))
    return np.einsum("ni,ni->n", b - a, np.cross(c - a, d - a)) / 6


def test_six_equal_positive_tetrahedra_fill_each_cube():
    found = volumes(tet_grid.positions(3, 0.55), tetrahedra_of(3))
    assert found.shape == (162,)
    np.testing.assert_allclose(found, (1.1 / 3) ** 3 / 6, rtol=1e-5)


def test_neighbors_fit_and_edges_end_at_corners():
    tetrahedra = tetrahedra_of(4)
    triangles = np.sort(np.concatenate([np.delete(tetrahedra, i, axis=1) for i in range(4)]), axis=1)
    _, count = np.unique(triangles, axis=0, return_counts=True)
    assert sorted(set(count)) == [1, 2] and (count == 1).sum() == 2 * 6 * 16        # the box's sides, two per square
    edges = np.unique(np.sort(np.concatenate([tetrahedra[:, [i, j]] for i in range(4) for j in range(i)]), axis=1), axis=0)
    assert set(edges[:, 1] - edges[:, 0]) == set(tet_grid.corner_offsets(4)[1:])
    # of (n+1)^3 vertices: 3 n (n+1)^2 along axes, 3 n^2 (n+1) in faces, n^3 through cubes
    assert len(edges) == 3 * 4 * 25 + 3 * 16 * 5 + 64


def test_numbers_of_vertices_are_those_of_the_array():
    grid = tet_grid.positions(2, 1.0).reshape(3, 3, 3, 3)
    assert grid[2, 0, 1].tolist() == [1, -1, 0]
    assert tet_grid.positions(2, 1.0, [19]).tolist() == [[1, -1, 0]]


def test_the_bounded_deformation_folds_nothing():
    rng = np.random.default_rng(0)
    tetrahedra, numbers = tetrahedra_of(6), np.arange(343)
    for bound, folds in ((tet_grid.UNFOLDED, False), (0.45, True)):
        signs = np.sign(rng.standard_normal((343, 3))).astype(np.float32) * 50      # tanh = 1: the farthest there is
        points = tet_grid.deformed(6, 0.55, numbers, signs, bound)
        assert np.abs(points - tet_grid.positions(6, 0.55)).max() == pytest.approx(bound * 1.1 / 6, rel=1e-4)
        assert (volumes(points, tetrahedra).min() < -1e-7) == folds


def test_sealing():
    grid = np.full((5, 5, 5), -0.2, np.float32)
    grid[2, 2, 2], grid[1, 2, 2] = 0.0, -1e-9
    out = tet_grid.sealed(grid, 0.5)
    assert out[2, 2, 2] == pytest.approx(0.25e-3) and out[1, 2, 2] == pytest.approx(-0.25e-3)
    inner = np.zeros((5, 5, 5), bool)
    inner[1:-1, 1:-1, 1:-1] = True
    assert (out[~inner] == 0.125).all() and out[3, 3, 3] == np.float32(-0.2)
    assert grid[0, 0, 0] == np.float32(-0.2)                                        # a copy
