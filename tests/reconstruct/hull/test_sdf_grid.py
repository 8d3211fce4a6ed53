"""Signed distances on a grid: sampled, traced, blurred, made one piece."""
from dataclasses import replace

import numpy as np
import pytest

from sgm.reconstruct.hull import sdf_grid
from sgm.reconstruct.posed_views import HALF, PosedViews, ShapeError
from sgm.views.cameras import camera_to_world


def test_sampling_and_gradient_of_a_plane_are_exact():
    axis = sdf_grid.vertices(8, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    plane = (2 * x - y + 0.5 * z + 0.1).astype(np.float32)
    points = np.random.RandomState(0).uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
    expected = points.astype(np.float64) @ [2, -1, 0.5] + 0.1
    np.testing.assert_allclose(sdf_grid.sample(plane, HALF, points), expected, atol=1e-6)
    inner = points[np.abs(points).max(1) < 0.45]
    np.testing.assert_allclose(sdf_grid.gradient(plane, HALF, inner), np.tile([2, -1, 0.5], (len(inner), 1)), atol=1e-5)


def test_tracing_a_ball_in_closed_form():
    axis = sdf_grid.vertices(64, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    sphere = (np.sqrt(x * x + y * y + z * z) - 0.4).astype(np.float32)
    offset = np.linspace(-0.5, 0.5, 41, dtype=np.float32)
    origins = np.stack([np.full(41, 2, np.float32), offset, np.zeros(41, np.float32)], axis=-1)
    found = sdf_grid.trace(sphere, HALF, origins, np.tile(np.float32([-1, 0, 0]), (41, 1)))
    hit = np.abs(offset) < 0.4
    assert np.isfinite(found[np.abs(offset) < 0.39]).all() and np.isinf(found[np.abs(offset) > 0.41]).all()
    exact = 2 - np.sqrt(0.16 - offset[hit] ** 2)
    inner = np.abs(offset[hit]) < 0.35
    np.testing.assert_allclose(found[hit][inner], exact[inner], atol=2e-3)


def test_pieces_voids_and_cavities():
    sdf = np.ones((12, 12, 12), np.float32)
    sdf[1:8, 1:8, 1:8] = -1
    sdf[4, 4, 4] = 1                            # a void, which is filled
    sdf[9:11, 9:11, 9:11] = -1                  # a smaller piece, which goes
    sdf[3, 3, 5:8] = 1                          # a cavity open to the outside, which stays
    found = sdf_grid.one_piece(sdf) < 0
    expected = sdf < 0
    expected[4, 4, 4], expected[9:11, 9:11, 9:11] = True, False
    assert np.array_equal(found, expected)
    with pytest.raises(ShapeError, match="empty"):
        sdf_grid.one_piece(np.ones((4, 4, 4), np.float32))


def test_pieces_are_joined_as_in_the_tetrahedral_grid():
    """By the diagonals of Kuhn's triangulation, not by the other ones."""
    sdf = np.ones((9, 9, 9), np.float32)
    sdf[1:4, 1:4, 1:4] = -1
    sdf[4, 4, 4] = sdf[4, 0, 2] = -1
    found = sdf_grid.one_piece(sdf) < 0
    assert found[4, 4, 4] and not found[4, 0, 2] and found.sum() == 28


def test_pieces_that_views_need_stay():
    axis = sdf_grid.vertices(48, HALF)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    ball, leaf, ghost, speck = (np.linalg.norm(grid - middle, axis=-1).astype(np.float32) - radius for middle, radius in (
        ((0, 0, -0.1), 0.25), ((0, 0, 0.35), 0.08), ((0.4, 0, -0.1), 0.06), ((0, 0.4, 0.4), 0.012)))
    blank = PosedViews(np.zeros((8, 48, 48, 3), np.float32), np.zeros((8, 48, 48), np.float32),
                       camera_to_world(45 * np.arange(8.0), np.zeros(8), 2.0), 70.0, 70.0, 24.0, 24.0)
    mask = sdf_grid.silhouettes(np.minimum(ball, leaf), HALF, blank)[0].astype(np.float32)
    views = replace(blank, mask=mask)
    found = sdf_grid.one_piece(np.minimum.reduce([ball, leaf, ghost, speck]), views) < 0
    assert np.array_equal(found, np.minimum(ball, leaf) < 0)        # no view needs the ghost, nor the speck
    assert np.array_equal(sdf_grid.one_piece(np.minimum(ball, leaf)) < 0, ball < 0)


def test_blurring_keeps_planes_and_is_a_gaussian():
    axis = np.arange(20, dtype=np.float32)
    plane = (axis[:, None, None] + 2 * axis[None, :, None] - axis[None, None, :]) * np.ones((20, 20, 20), np.float32)
    np.testing.assert_allclose(sdf_grid.blurred(plane, 0.8)[4:-4, 4:-4, 4:-4], plane[4:-4, 4:-4, 4:-4], atol=1e-4)
    point = np.zeros((21, 21, 21), np.float32)
    point[10, 10, 10] = 1
    found = sdf_grid.blurred(point, 1.2).astype(np.float64)
    d = np.arange(21) - 10
    for axis in range(3):
        profile = found.sum(tuple(k for k in range(3) if k != axis))
        np.testing.assert_allclose([profile.sum(), (profile * d * d).sum()], [1, 1.2 ** 2], rtol=0.02)
    assert sdf_grid.blurred(point, 0) is point


def test_blur():
    grid = np.zeros((11, 11, 11), np.float32)
    grid[5, 5, 4] = 2
    out = sdf_grid.blurred(grid, 1.0, "constant")
    taps = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    taps /= taps.sum()
    expected = 2 * taps[:, None, None] * taps[None, :, None] * taps[None, None, :]
    np.testing.assert_allclose(out[2:9, 2:9, 1:8], expected, rtol=1e-5)
    assert out.sum() == pytest.approx(2, rel=1e-5) and sdf_grid.blurred(grid, 0) is grid
