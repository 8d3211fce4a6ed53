"""Rays through volumes against scipy's interpolation in float64, closed forms, and numerical gradients."""
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.ops import GradOperation
from scipy.ndimage import map_coordinates

from sgm.autodecoder.ray_marching import DENSITY_BIAS, RayMarcher, enter_box
from sgm.views.cameras import camera_to_world, focal_length, rays

SIDE, SAMPLES = 6, 40


def camera_rays(azimuth, pixels=5, elevation=20.0):
    parts = rays(camera_to_world(azimuth, elevation), pixels, pixels, focal_length(pixels))
    return [np.ascontiguousarray(part.reshape(-1, 3).T, np.float32) for part in parts]


def volumes(count, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (count, SIDE ** 3, 4)).astype(np.float32) + np.float32([4, 0, 0, 0])


def reference(volume, origins, directions, jitter, shift=0.0):
    """(4, rays) float64; shift: of the sample points along y, which keep their lengths."""
    grids = volume.astype(float).T.reshape(4, SIDE, SIDE, SIDE)        # z, y, x
    result = []
    for o, d, u in zip(origins.T.astype(float), directions.T.astype(float), jitter.T):
        first, second = (-0.5 - o) / d, (0.5 - o) / d
        near = max(np.minimum(first, second).max(), 0)
        far = max(np.maximum(first, second).min(), near)
        t = near + (np.arange(SAMPLES) + u) / SAMPLES * (far - near)
        places = (o[:, None] + t * d[:, None] + np.array([[0], [shift], [0]]) + 0.5) * SIDE - 0.5
        raw = np.stack([map_coordinates(grid, places[::-1], order=1, mode="nearest") for grid in grids])
        tau = SIDE * np.log1p(np.exp(raw[0] + DENSITY_BIAS)) * (far - near) / SAMPLES
        share = np.exp(-(np.cumsum(tau) - tau)) * (1 - np.exp(-tau))
        result.append([*(share / (1 + np.exp(-raw[1:]))).sum(1), share.sum()])
    return np.array(result).T


@pytest.mark.parametrize("shared", [True, False])
def test_objects_with_shared_and_own_cameras(shared, agree):
    """Two objects, as members of one table or as groups, against one ray at a time."""
    both = volumes(2)
    cameras = [camera_rays(30.0), camera_rays(30.0 if shared else 200.0)]
    jitter = np.random.default_rng(1).random((SAMPLES, 25), np.float32)
    if shared:
        march, given, spread = RayMarcher(SIDE, SAMPLES, 1, 2), cameras[0], jitter
    else:
        march = RayMarcher(SIDE, SAMPLES, 2, 1)
        given = [np.concatenate(parts, 1) for parts in zip(*cameras)]
        spread = np.concatenate([jitter, jitter], 1)
    found = march(Tensor(both.reshape(-1, 4)), *map(Tensor, given), Tensor(spread)).asnumpy()
    assert found.shape == ((4, 25, 2) if shared else (4, 50, 1))
    found = found.transpose(2, 0, 1) if shared else found[..., 0].reshape(4, 2, 25).transpose(1, 0, 2)
    for k in range(2):
        wanted = reference(both[k], *cameras[k], jitter)
        assert wanted[3].max() > 0.9
        agree(f"ray marching, {'shared' if shared else 'own'} cameras", found[k], wanted, 1e-5)


def test_opacity_of_a_constant_volume():
    """1 - exp(-density length), and the color over it; a ray beside the box sees nothing."""
    raw, color = 3.0, np.float32([-1, 0, 2])
    volume = np.tile(np.float32([raw, *color]), (SIDE ** 3, 1))
    origins = np.float32([[-2, 0.1, 0.2], [-2, 0.9, 0], [0, 0, 2]]).T
    directions = np.float32([[1, 0, 0], [1, 0, 0], [0, 0, -1]]).T
    middle = np.full((SAMPLES, 3), 0.5, np.float32)
    found = RayMarcher(SIDE, SAMPLES, 1, 1)(*map(Tensor, (volume, origins, directions, middle))).asnumpy()[..., 0]
    opacity = 1 - np.exp(-SIDE * np.log1p(np.exp(raw + DENSITY_BIAS)))
    np.testing.assert_allclose(found[3], [opacity, 0, opacity], rtol=1e-5)
    np.testing.assert_allclose(found[:3, 0], opacity / (1 + np.exp(-color)), rtol=1e-5)
    assert (found[:, 1] == 0).all()


def test_box_is_not_entered_behind_the_camera():
    origins, directions = np.float32([[0, 0, 0], [0.7, 0, 0]]).T, np.float32([[1, 0, 0], [1, 0, 0]]).T
    near, far = (value.asnumpy() for value in enter_box(Tensor(origins), Tensor(directions)))
    np.testing.assert_allclose(near[0], 0)
    np.testing.assert_allclose(far[0], 0.5)
    assert near[1] == far[1]


def test_gradients_are_the_slopes():
    """Of volumes along a random direction, and of the rays' origins, against central differences of the reference."""
    rng = np.random.default_rng(2)
    volume, (origins, directions) = volumes(1)[0], camera_rays(70.0)
    jitter = rng.random((SAMPLES, 25), np.float32)
    weight = rng.standard_normal((4, 25))

    class Total(nn.Cell):
        def __init__(self):
            super().__init__()
            self.march, self.weight = RayMarcher(SIDE, SAMPLES, 1, 1), Tensor(weight.astype(np.float32))

        def construct(self, volume, origins, directions, jitter):
            return (self.march(volume, origins, directions, jitter)[:, :, 0] * self.weight).sum()

    gradients = GradOperation(get_all=True)(Total())(*map(Tensor, (volume, origins, directions, jitter)))
    move = rng.standard_normal(volume.shape)
    slope = sum(sign * (reference(volume + sign * 1e-5 * move, origins, directions, jitter) * weight).sum()
                for sign in (1, -1)) / 2e-5
    np.testing.assert_allclose((gradients[0].asnumpy() * move).sum(), slope, rtol=2e-4)
    slope = sum(sign * (reference(volume, origins, directions, jitter, sign * 1e-6) * weight).sum()
                for sign in (1, -1)) / 2e-6
    np.testing.assert_allclose(gradients[1].asnumpy()[1].sum(), slope, rtol=2e-3)

