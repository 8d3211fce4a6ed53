"""Sampling along rays, compositing and losses against float64 numpy and closed forms."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from sgm.reconstruct.hull import sdf_grid
from sgm.reconstruct.nerf import volume_rendering

HALF, CELLS = 0.55, 22          # cells of 0.05
STEP = 0.05 / volume_rendering.STEPS_PER_CELL


def slabs(*ranges):
    """Occupied cells: all whose index along x is in one of the ranges."""
    occupied = np.zeros((CELLS,) * 3, bool)
    for low, high in ranges:
        occupied[low:high] = True
    return occupied


def along_x(count, y=0.01, z=0.02):
    """Rays in +x direction through the box, all alike."""
    return np.tile(np.float32([-2, y, z]), (count, 1)), np.tile(np.float32([1, 0, 0]), (count, 1))


def test_samples_stay_in_occupied_cells():
    occupied = slabs((4, 8), (15, 17))          # x from -0.35 to -0.15 and from 0.2 to 0.3: t from 1.65 and from 2.2
    density = np.random.RandomState(0).uniform(0, 30, occupied.shape).astype(np.float32)
    rng = np.random.RandomState(1)
    t, delta = volume_rendering.sampled(*along_x(200), occupied, density, HALF, 16, rng)
    inside = ((t > 1.65 - 1e-4) & (t < 1.85 + 1e-4)) | ((t > 2.2 - 1e-4) & (t < 2.3 + 1e-4))
    assert inside.all() and (np.diff(t, axis=1) >= -1e-6).all()
    np.testing.assert_allclose(delta.sum(1), 0.3, atol=1e-5)


def test_a_ray_that_meets_nothing_weighs_nothing():
    t, delta = volume_rendering.sampled(*along_x(3), slabs(), np.zeros((CELLS,) * 3, np.float32), HALF, 8, np.random.RandomState(0))
    assert not t.any() and not delta.any()
    origins, directions = along_x(3, y=2.0)     # past the box
    t, delta = volume_rendering.sampled(origins, directions, slabs((0, CELLS)), np.ones((CELLS,) * 3, np.float32), HALF, 8)
    assert not delta.any()


def test_samples_follow_the_cached_density():
    """The cumulative distribution of many samples against that of the steps' probabilities, in float64."""
    occupied = slabs((4, 14))
    density = np.zeros((CELLS,) * 3, np.float32)
    density[4:14] = np.float32([1, 0, 3, 20, 40, 8, 0, 0, 5, 5])[:, None, None]
    uniform = 0.25
    t, delta = volume_rendering.sampled(*along_x(4000), occupied, density, HALF, 4, np.random.RandomState(2), uniform)
    sigma = np.repeat(density[4:14, 0, 0].astype(np.float64), volume_rendering.STEPS_PER_CELL)
    left = np.exp(-np.concatenate([[0], np.cumsum(sigma * STEP)]))
    weight = left[:-1] - left[1:]
    p = uniform / len(sigma) + (1 - uniform) * (weight + left[-1] / len(sigma))
    np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
    edges = 2 - HALF + 4 * 0.05 + STEP * np.arange(len(sigma) + 1)
    found = np.histogram(t, edges)[0] / t.size
    np.testing.assert_allclose(found, p, atol=4 * np.sqrt(0.25 / t.size))
    # A stretch of probability q within step b is q / p_b of its length: what a sample stands for.
    np.testing.assert_allclose(delta.sum(1), 0.5, atol=1e-5)
    narrow = delta[(t > 1.85) & (t < 1.87)]     # where density is 40, after 20
    assert narrow.mean() < 0.6 * delta.mean()


def test_even_strata_integrate_a_polynomial():
    """Without density and jitter, samples are the midpoints of equal pieces: a sum over them is the midpoint rule."""
    t, delta = volume_rendering.sampled(*along_x(1), slabs((2, 12)), np.zeros((CELLS,) * 3, np.float32), HALF, 50)
    low, high = 2 - HALF + 0.1, 2 - HALF + 0.6
    np.testing.assert_allclose(t[0], low + (np.arange(50) + 0.5) * 0.01, atol=1e-5)
    np.testing.assert_allclose((delta * t ** 2).sum(), (high ** 3 - low ** 3) / 3, rtol=1e-4)


def test_occupancy_holds_every_point_below_the_margin():
    axis = sdf_grid.vertices(32, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    sdf = (np.sqrt(x * x + y * y + z * z) - 0.3).astype(np.float32)
    occupied = volume_rendering.occupancy(sdf, HALF, CELLS, 0.02)
    points = np.random.RandomState(0).uniform(-HALF, HALF, (20000, 3))
    radius = np.linalg.norm(points, axis=1)
    cell = tuple(((points + HALF) / (2 * HALF) * CELLS).astype(int).T)
    assert occupied[cell][radius < 0.315].all()
    assert not occupied[cell][radius > 0.32 + 0.05 * np.sqrt(3) + 0.01].any()


def reference(sigma, delta, t, colors):
    """Equation 3 of the NeRF paper, ray by ray, in float64: weights, opacity, color, expected distance."""
    weights = np.zeros(sigma.shape)
    for n in range(len(sigma)):
        left = 1.0
        for s in range(sigma.shape[1]):
            alpha = 1 - np.exp(-float(sigma[n, s]) * float(delta[n, s]))
            weights[n, s] = left * alpha
            left *= 1 - alpha
    return weights, weights.sum(1), (weights[..., None] * colors).sum(1), (weights * t).sum(1)


@pytest.fixture
def rays():
    rng = np.random.RandomState(7)
    sigma = rng.exponential(20, (6, 12)).astype(np.float32)
    sigma[0] = 0
    sigma[1, 3] = 2000.0                        # opaque at once: the gradient must stay finite
    delta = rng.uniform(0.001, 0.05, (6, 12)).astype(np.float32)
    t = (1.5 + np.cumsum(delta, axis=1)).astype(np.float32)
    return sigma, delta, t, rng.random_sample((6, 12, 3)).astype(np.float32)


def test_compositing_against_float64(rays):
    sigma, delta, t, colors = rays
    weights = volume_rendering.Composite(12)(Tensor(sigma), Tensor(delta))
    expected = reference(*rays)
    np.testing.assert_allclose(weights.asnumpy(), expected[0], atol=1e-6)
    found = volume_rendering.accumulate(weights, Tensor(colors.reshape(-1, 3))).asnumpy()
    np.testing.assert_allclose(found, expected[2], atol=2e-6)
    # Two samples worked by hand: exp(-0.5) is left after the first, which takes the rest.
    two = volume_rendering.Composite(2)(Tensor(np.float32([[5, 10]])), Tensor(np.float32([[0.1, 0.2]]))).asnumpy()
    np.testing.assert_allclose(two, [[1 - np.exp(-0.5), np.exp(-0.5) * (1 - np.exp(-2))]], rtol=1e-6)


def test_compositing_gradients_by_differences(rays):
    sigma, delta, t, colors = rays
    composite = volume_rendering.Composite(12)
    a = np.random.RandomState(8).standard_normal((6, 3))
    flat, ta, td = Tensor(colors.reshape(-1, 3)), Tensor(a.astype(np.float32)), Tensor(delta)

    def loss(sigma):
        return (volume_rendering.accumulate(composite(sigma, td), flat) * ta).sum()
    gradient = ms.grad(loss)(Tensor(sigma)).asnumpy()
    assert np.isfinite(gradient).all()
    measured = np.zeros(sigma.shape)
    for index in np.ndindex(sigma.shape):
        ends = []
        for step in (1e-4, -1e-4):
            moved = sigma.astype(np.float64)
            moved[index] += step
            ends.append((reference(moved, delta, t, colors)[2] * a).sum())
        measured[index] = (ends[0] - ends[1]) / 2e-4
    np.testing.assert_allclose(gradient, measured, atol=2e-6, rtol=1e-4)


def test_distortion_against_its_double_sum(rays):
    sigma, delta, t, _ = rays
    weights = reference(*rays)[0]
    expected = 0.0
    for n in range(len(t)):
        for i in range(12):
            expected += weights[n, i] ** 2 * delta[n, i] / 3
            for j in range(12):
                expected += weights[n, i] * weights[n, j] * abs(float(t[n, i]) - float(t[n, j]))
    composite = volume_rendering.Composite(12)
    found = volume_rendering.distortion(composite, Tensor(weights.astype(np.float32)), Tensor(t), Tensor(delta))
    np.testing.assert_allclose(float(found.asnumpy()), expected / len(t), rtol=1e-4)


def test_the_other_losses_by_hand():
    color, target = np.float32([[0.5, 0.5, 0.5], [1, 0, 0]]), np.float32([[0.5, 0.5, 0.5], [0, 0, 0]])
    found = volume_rendering.photometric(Tensor(color), Tensor(target)).asnumpy()
    np.testing.assert_allclose(found, (np.sqrt(1e-4) + np.sqrt(1 + 1e-4)) / 2, rtol=1e-5)
    depth = Tensor(np.float32([1, 1.5, 1.25, 9, 2, 3, 4, 5]))   # a patch that counts, one with a ray next to the object
    inside = Tensor(np.float32([1, 1, 1, 1, 1, 0, 1, 1]))
    np.testing.assert_allclose(volume_rendering.depth_smoothness(depth, inside).asnumpy(), (0.25 + 0.0625) / 2, rtol=1e-6)
    table = Tensor(np.float32([[1, 2], [3, 4], [0, 0]]))
    found = volume_rendering.total_variation(table, Tensor(np.int32([0, 1, 1, 2])), 2).asnumpy()
    np.testing.assert_allclose(found, (4 + 4 + 9 + 16) / 4, rtol=1e-6)


def test_surface_depth_in_a_constant_medium():
    """Density s from t = 2 on for a length l: opacity 1 - exp(-s l); half of it is lost at -ln(1 - opacity / 2) / s."""
    s, length, count = 30.0, 0.2, 40
    delta = np.full((1, count), length / count, np.float32)
    t = (2 + (np.arange(count) + 0.5) * length / count).astype(np.float32)[None]
    depth, opacity = volume_rendering.surface_depth(np.full((1, count), s, np.float32), delta, t, 0.5)
    np.testing.assert_allclose(opacity, 1 - np.exp(-s * length), rtol=1e-5)
    np.testing.assert_allclose(depth, 2 - np.log(1 - 0.5 * (1 - np.exp(-s * length))) / s, atol=1e-5)
