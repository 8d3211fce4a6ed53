"""Fusion of depth: exact maps of a ball, deep parts only, and which candidate is taken."""
import numpy as np
import pytest
from support.colored_ball import RADIUS, SIDE

from sgm.reconstruct.hull import sdf_grid
from sgm.reconstruct.nerf import depth_fusion
from sgm.reconstruct.posed_views import HALF


@pytest.mark.parametrize("errors, name", [
    ({"hull": 4.0, "max": 1.0, "deep": 1.5}, "max"), ({"hull": 4.0, "max": 3.0, "deep": 3.5}, "deep"),
    ({"hull": 4.0, "max": 3.0, "deep": 4.5}, "hull"), ({"hull": 4.0, "max": 1.9, "deep": 1.5}, "deep"),
    ({"max": 2.0}, "max")])
def test_choice_of_the_fusion(errors, name):
    assert depth_fusion.choice(errors) == name


def test_fusing_exact_distances_of_a_ball(views):
    """On maps without error the fused value is the distance along the ray, truncated; zero on the ball."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    maps = np.full((len(views), SIDE * SIDE), np.inf, np.float32)
    for k in range(len(views)):
        o, d = (x.astype(np.float64) for x in views.rays(np.full(len(rows), k), rows, columns))
        b = (o * d).sum(-1)
        inside = b * b - (o * o).sum(-1) + RADIUS ** 2
        maps[k] = np.where(inside > 0, -b - np.sqrt(np.maximum(inside, 0)), np.inf)
    fused = depth_fusion.fuse(maps.reshape(-1, SIDE, SIDE), views, 32, 0.1)
    axis = sdf_grid.vertices(32, HALF)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    np.testing.assert_allclose(fused[radius < RADIUS - 0.2], -0.1, atol=1e-6)
    shell = np.abs(radius - RADIUS) < 0.015
    assert np.abs(fused[shell]).mean() < 0.025
    nearer = depth_fusion.fuse(maps.reshape(-1, SIDE, SIDE), views, 32, 0.1, 0.02)
    assert 0.01 < (fused - nearer)[shell].mean() < 0.021


def test_deep_only_takes_deep_parts_from_depth():
    axis = sdf_grid.vertices(32, HALF)
    outside = np.broadcast_to(axis[:, None, None] - 0.3, (33, 33, 33)).astype(np.float32)      # the half space x < 0.3
    y = axis[None, :, None] * np.ones((33, 33, 33), np.float32)
    fused = np.where(y > 0, outside + 0.2, outside + 0.005).astype(np.float32)     # a step 0.2 deep where y > 0
    found = depth_fusion.deep_only(outside, fused, 0.03)
    assert (found[:, axis > 0.2][18:24] == fused[:, axis > 0.2][18:24]).all()
    np.testing.assert_array_equal(found[:, axis < -0.2], outside[:, axis < -0.2])


def test_candidates_are_not_judged_by_what_is_not_known(views):
    """The left half of every picture is masked out: the true surface is as good as before, its figures those of the rest."""
    axis = sdf_grid.vertices(32, HALF)
    ball = (np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) - RADIUS).astype(np.float32)

    class Field:
        def evaluate(self, points):
            return None, (0.5 + 0.4 * points / RADIUS).astype(np.float32)

    known = np.ones(views.mask.shape, bool)
    known[:, :, :SIDE // 2] = False
    scores = [depth_fusion.score(ball, Field(), v) for v in (views, views.ignoring(known), views.ignoring(known).ignoring(None))]
    assert scores[1][0] == pytest.approx(scores[0][0], abs=0.01) and scores[1][1] == pytest.approx(scores[0][1], rel=0.2)
    assert scores[2][0] < 0.6                   # taken for background
