"""Meshes of volumes: a ball whose place, size and colors are known."""
import numpy as np
import pytest

from sgm.autodecoder.surface import LEVEL, read_volume, surface_of
from sgm.common.errors import InputError
from sgm.geometry.topology import describe

SIDE, RADIUS, MIDDLE = 20, 0.3, np.array([0.04, -0.06, 0.08])


def volume(density):
    """Colors: the logit of red grows with x, of green with y, of blue with z."""
    z, y, x = np.meshgrid(*[(np.arange(SIDE) + 0.5) / SIDE - 0.5] * 3, indexing="ij")
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    return np.concatenate([density(points)[:, None], 8 * points], 1).astype(np.float32)


def test_ball():
    """Its surface is where a ray loses half of its light along a voxel; colors are those of the place."""
    mesh = surface_of(volume(lambda p: LEVEL + 20 * (RADIUS - np.linalg.norm(p - MIDDLE, axis=1))))
    shape = describe(mesh.vertices, mesh.faces)
    assert shape["watertight"] and shape["genus"] == 0 and shape["components"] == 1
    distance = np.linalg.norm(mesh.vertices - MIDDLE, axis=1)
    assert np.abs(distance - RADIUS).max() < 0.05 / SIDE
    assert abs(shape["volume"] / (4 / 3 * np.pi * RADIUS ** 3) - 1) < 0.02     # negative, were it inside out
    wanted = 255 / (1 + np.exp(-8 * mesh.vertices))
    assert np.abs(mesh.vertex_colors() - wanted).max() < 5


def test_object_that_fills_its_box_is_closed():
    shape = describe(*(lambda mesh: (mesh.vertices, mesh.faces))(surface_of(volume(lambda p: np.full(len(p), 9.0)))))
    assert shape["watertight"] and 0.9 < shape["volume"] <= 1


def test_nothing_above_the_level():
    with pytest.raises(InputError, match="empty volume .raw density up to 4.9, expected some above 5"):
        surface_of(volume(lambda p: np.full(len(p), 4.9)))


def test_volume_is_read_as_rays_read_it(agree):
    """The ray marcher's lookup, of points inside and beyond the outermost voxels."""
    from mindspore import Tensor

    from sgm.autodecoder.ray_marching import RayMarcher
    rng = np.random.default_rng(0)
    values, points = rng.standard_normal((SIDE ** 3, 4)).astype(np.float32), rng.uniform(-0.55, 0.55, (50, 3))
    march = RayMarcher(SIDE, 1, 1, 1)
    indices, weights = march.lookup(tuple(Tensor(part[None].astype(np.float32)) for part in points.T), 50)
    agree("volume", read_volume(values, points), march.interpolate(Tensor(values), indices, weights).asnumpy(), 1e-5)
