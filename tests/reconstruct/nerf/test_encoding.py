"""Encodings and spherical harmonics against float64 numpy written another way."""
import numpy as np
import pytest
from support.encoding_reference import HALF, LEVELS, hash_of, reference, some_points

from sgm.common.errors import InputError
from sgm.reconstruct.nerf import encoding


def test_levels_of_the_paper():
    levels = encoding.hash_levels(16, 2, 19, 16, 2048)
    assert list(levels.resolution[:5]) == [16, 22, 30, 42, 58] and levels.resolution[-1] == 2048
    assert list(levels.hashed) == [False] * 5 + [True] * 11    # levels of at most 2^19 vertices are stored densely
    assert levels.entries == sum((r + 1) ** 3 for r in (16, 22, 30, 42, 58)) + 11 * 2 ** 19


def test_the_hash_is_the_papers():
    rng = np.random.RandomState(1)
    for x, y, z in rng.randint(0, 4096, (200, 3)):
        for size in (2 ** 10, 2 ** 19):
            assert encoding.spatial_hash(x, y, z, size) == hash_of(int(x), int(y), int(z), size)


@pytest.mark.parametrize("kind", LEVELS)
def test_encoding_against_float64(kind):
    levels, points = LEVELS[kind], some_points()
    table = np.random.RandomState(2).standard_normal((levels.entries, levels.features))
    indices, weights = encoding.encode(points, HALF, levels)
    assert indices.shape == (8, len(points) * len(levels)) and indices.dtype == np.int32
    found = (table[indices] * weights).sum(0).reshape(len(points), -1)
    np.testing.assert_allclose(found, reference(points, table, levels), atol=2e-5)
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
    again = encoding.encode(points[::-1], HALF, levels, (indices, weights))
    assert again[0] is indices                  # filled again
    np.testing.assert_allclose((table[indices] * weights).sum(0).reshape(len(points), -1)[::-1],
                               reference(points, table, levels), atol=2e-5)


def test_neighbors_differ_by_one_step_along_one_axis():
    levels = encoding.dense_levels([3, 8], 2)
    first, second = encoding.vertex_pairs(levels, 500, np.random.RandomState(0))
    for a, b in zip(first, second):
        level = int(a >= levels.first[1])
        r = int(levels.resolution[level])
        places = [np.array(np.unravel_index(i - levels.first[level], (r + 1,) * 3)) for i in (a, b)]
        assert np.abs(places[1] - places[0]).sum() == 1
    assert 0.8 < (first >= levels.first[1]).mean() < 0.98       # 729 of 793 entries


def test_total_variation_needs_a_dense_level():
    with pytest.raises(InputError, match="nerf.tv: .* found none; set nerf.tv=0"):
        encoding.vertex_pairs(encoding.hash_levels(2, 2, 8, 16, 32), 4, np.random.RandomState(0))


def test_spherical_harmonics_are_orthonormal():
    """Gauss-Legendre times equispaced angles integrates products of degree 6 exactly, independently of the formulas."""
    z, weight = np.polynomial.legendre.leggauss(8)
    angle = 2 * np.pi * np.arange(16) / 16
    s = np.sqrt(1 - z ** 2)
    x, y, z_ = np.outer(s, np.cos(angle)), np.outer(s, np.sin(angle)), np.outer(z, np.ones(16))
    directions = np.stack([x, y, z_], axis=-1).reshape(-1, 3)
    values = encoding.spherical_harmonics(directions).astype(np.float64)
    area = np.repeat(weight * 2 * np.pi / 16, 16)
    np.testing.assert_allclose(values.T @ (values * area[:, None]), np.eye(16), atol=1e-6)
    # The sum of squares over one degree is (2 l + 1) / (4 pi) in every direction (addition theorem): degrees are not mixed.
    for degree in range(4):
        squares = np.square(values[:, degree ** 2:(degree + 1) ** 2]).sum(-1)
        np.testing.assert_allclose(squares, (2 * degree + 1) / (4 * np.pi), rtol=1e-5)
    at = dict(zip(("y", "z", "x"), encoding.spherical_harmonics(np.array([[0., 1, 0], [0, 0, 1], [1, 0, 0]]))[:, 1:4]))
    np.testing.assert_allclose([at["y"][0], at["z"][1], at["x"][2]], [-0.48860251, 0.48860251, -0.48860251], rtol=1e-6)
