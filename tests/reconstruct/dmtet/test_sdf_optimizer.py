"""The steps of signed distances on the host, against closed forms."""
import numpy as np
import pytest
from support.surfaces import RESOLUTION, ball

from sgm.config.reconstruction import DMTetSpec
from sgm.reconstruct.dmtet import sdf_optimizer, tet_grid
from sgm.reconstruct.posed_views import HALF


def test_adam_against_its_definition():
    rng, adam = np.random.default_rng(0), sdf_optimizer.Adam(5)
    m = v = np.zeros(5)
    for t in range(1, 6):
        g = rng.standard_normal(5)
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        expected = 0.01 * (m / (1 - 0.9 ** t)) / (np.sqrt(v / (1 - 0.98 ** t)) + 0.3)
        np.testing.assert_allclose(adam.update(g.astype(np.float32), 0.01, 0.3), expected, rtol=2e-5)


def test_smoothing_acts_only_on_what_was_seen():
    rng = np.random.default_rng(0)
    sdf = ball(0.3) + 0.01 * rng.standard_normal((21, 21, 21)).astype(np.float32)
    gradient = np.zeros_like(sdf)
    gradient[:10] = 1e-6 * rng.standard_normal((10, 21, 21))            # one half is seen
    state = sdf_optimizer.SdfOptimizer(sdf, HALF, DMTetSpec(laplacian=3.0, blur=0.5, follow=False))
    crossed = np.zeros(sdf.shape, bool)
    out = sdf
    for _ in range(30):
        out = state.step(out, gradient, crossed, 1e-3)
        gradient = -gradient                        # no direction of its own in the long run
    assert (out[13:] == sdf[13:]).all()

    def roughness(grid):
        near = np.abs(ball(0.3)[2:8]) < 0.05
        mean = sum(np.roll(grid, s, a) for a in range(3) for s in (-1, 1))[2:8] / 6
        return np.square((grid[2:8] - mean)[near]).mean()

    assert roughness(out) < 0.5 * roughness(sdf)


def test_hidden_parts_follow_their_surroundings():
    """A slab's lower side, seen at the rim only, which moves down by 0.02 on the left and not on the right."""
    z = tet_grid.positions(RESOLUTION, HALF).reshape(21, 21, 21, 3)
    sdf = np.maximum(-0.2 - z[..., 2], z[..., 2] - 0.4)
    state = sdf_optimizer.SdfOptimizer(sdf, HALF, DMTetSpec(laplacian=0.0, blur=0.0))
    gradient = np.zeros_like(sdf)
    gradient[:5], gradient[-5:] = 1e-3, 1e-3
    still = state.step(sdf, gradient, np.zeros(sdf.shape, bool), 0.0)                       # nothing moves around it
    np.testing.assert_allclose(still, sdf, atol=1e-6)
    now = sdf.copy()
    now[:5] -= 0.02
    for _ in range(120):
        now = state.step(now, gradient, np.zeros(sdf.shape, bool), 0.0)
    line = (now - sdf)[:, 10, 7]                                                            # near the slab's lower side
    expected = np.concatenate([np.full(5, -0.02), np.linspace(-0.02, 0, 13)[1:-1], np.zeros(5)])
    np.testing.assert_allclose(line, expected, atol=1e-4)


def test_weak_gradients_move_slowly():
    """Adam alone would move both alike."""
    sdf, gradient = np.ones((21, 21, 21), np.float32), np.zeros((21, 21, 21), np.float32)
    state = sdf_optimizer.SdfOptimizer(sdf, HALF, DMTetSpec(laplacian=0.0, blur=0.0))
    gradient[5, 5, 5], gradient[10, 10, 10] = 1e-3, 1e-6
    moved = sdf - state.step(sdf, gradient, np.zeros(sdf.shape, bool), 1e-2)
    assert moved[5, 5, 5] == pytest.approx(1e-2 / 1.0 / (1 + 0.3 / np.sqrt(2)), rel=1e-2)
    assert moved[10, 10, 10] < 0.01 * moved[5, 5, 5]


def test_sign_change_pulls_both_ends():
    sdf = np.full((5, 5, 5), 0.3, np.float32)
    sdf[2, 2, 2] = -0.1
    state = sdf_optimizer.SdfOptimizer(sdf, 0.5, DMTetSpec(laplacian=0.0, sign_change=1.0, blur=0.0, follow=False))
    gradient, crossed = np.zeros_like(sdf), np.zeros(sdf.shape, bool)
    gradient[3, 3, 3] = 1e-3
    crossed[2, 2, 2] = crossed[2, 2, 3] = True
    state.seen[1:4, 1:4, 1:4] = True
    out = state.step(sdf, gradient, crossed, 1e-2)
    assert out[2, 2, 2] > sdf[2, 2, 2] and out[2, 2, 3] < sdf[2, 2, 3] and out[1, 2, 2] == sdf[1, 2, 2]
