"""Encodings, spherical harmonics and the field against float64 numpy written another way."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from sgm import ops
from sgm.common.errors import InputError
from sgm.reconstruct.nerf import encoding
from sgm.reconstruct.nerf.field import Field

HALF = 0.55
LEVELS = {"dense": encoding.dense_levels([4, 9], 4), "hash": encoding.hash_levels(4, 2, 10, 4, 40)}


def hash_of(x, y, z, size):
    """Equation 4 of the Instant-NGP paper with Python's unbounded integers, products modulo 2^32 as its uint32 has them."""
    primes = (1, 2654435761, 805459861)
    value = 0
    for coordinate, prime in zip((x, y, z), primes):
        value ^= coordinate * prime % 2 ** 32
    return value % size


def reference(points, table, levels):
    """The encoding (N, L F) in float64, vertex by vertex."""
    out = np.zeros((len(points), len(levels), levels.features))
    for n, point in enumerate(points.astype(np.float64)):
        for level in range(len(levels)):
            r, size = int(levels.resolution[level]), int(levels.size[level])
            place = np.clip((point + HALF) / (2 * HALF), 0, 1) * r
            low = np.minimum(np.floor(place), r - 1)
            for a in (0, 1):
                for b in (0, 1):
                    for c in (0, 1):
                        i, j, k = (low + [a, b, c]).astype(int)
                        weight = np.prod(1 - np.abs(place - [i, j, k]))
                        index = hash_of(i, j, k, size) if levels.hashed[level] else (i * (r + 1) + j) * (r + 1) + k
                        out[n, level] += weight * table[levels.first[level] + index]
    return out.reshape(len(points), -1)


def some_points(count=40, seed=0):
    points = np.random.RandomState(seed).uniform(-HALF, HALF, (count, 3)).astype(np.float32)
    points[0], points[1], points[2] = HALF, -HALF, 0.7         # corners of the box, and a point outside it
    return points


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


def weights_of(field):
    """{name: float64 array}."""
    return {parameter.name: parameter.asnumpy().astype(np.float64) for parameter in field.trainable_params()}


def forward(field, points, harmonics=None, p=None):
    """The field in float64 numpy, with the weights `p` if given: raw density, color."""
    p = p or weights_of(field)
    hidden = np.maximum(reference(points, p["table"], field.levels) @ p["hidden"] + p["hidden_bias"], 0)
    density = (hidden @ p["density"] + p["density_bias"])[:, 0]
    if field.directional:
        hidden = np.concatenate([hidden, harmonics], axis=1)
    hidden = np.maximum(hidden @ p["second"] + p["second_bias"], 0)
    return density, 1 / (1 + np.exp(-(hidden @ p["colour"] + p["colour_bias"])))


def excited(kind, directional):
    """A small field whose table is large enough to matter."""
    field = Field(LEVELS[kind], HALF, 8, directional, seed=3)
    table = np.random.RandomState(4).standard_normal(field.table.shape).astype(np.float32)
    field.table.set_data(Tensor(table))
    return field


@pytest.mark.parametrize("kind, directional", [("dense", False), ("hash", True)])
def test_field_and_its_gradients_against_float64(kind, directional):
    """Values against numpy; the gradient, the table's written by hand, against central differences along directions."""
    field, points = excited(kind, directional), some_points()
    harmonics = encoding.spherical_harmonics(points / np.linalg.norm(points, axis=1, keepdims=True)) if directional else None
    inputs = [Tensor(x) for x in field.encode(points)] + ([Tensor(harmonics)] if directional else [])
    density, color = (x.asnumpy() for x in field(*inputs))
    expected = forward(field, points, harmonics)
    np.testing.assert_allclose(density, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(color, expected[1], rtol=1e-4)

    rng = np.random.RandomState(5)
    a, b = rng.standard_normal(len(points)), rng.standard_normal((len(points), 3))
    parameters = field.trainable_params()
    ta, tb = Tensor(a.astype(np.float32)), Tensor(b.astype(np.float32))

    def loss(*inputs):
        density, color = field(*inputs)
        return (density * ta).sum() + (color * tb).sum()
    gradients = ms.grad(loss, None, ms.ParameterTuple(parameters))(*inputs)
    weights = weights_of(field)
    for parameter, gradient in zip(parameters, gradients):
        direction = rng.standard_normal(parameter.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = {**weights, parameter.name: weights[parameter.name] + step * direction}
            found = forward(field, points, harmonics, moved)
            ends.append((found[0] * a).sum() + (found[1] * b).sum())
        terms = gradient.asnumpy().astype(np.float64) * direction
        assert abs(terms.sum() - (ends[0] - ends[1]) / 2e-6) < 1e-4 * np.abs(terms).sum(), parameter.name


def test_the_ascend_form_is_the_same_field(cpu_afterwards):
    """One copy of each weight instead of one per feature: values and the table's gradient as before."""
    field, points = excited("dense", False), some_points()

    def found():
        inputs = [Tensor(x) for x in field.encode(points)]
        table = ms.grad(lambda *inputs: field(*inputs)[1].sum(), None, ms.ParameterTuple([field.table]))(*inputs)
        return inputs[1].shape, field(*inputs)[0].asnumpy(), table[0].asnumpy()

    (shape, density, table), _ = found(), ops.set_target("Ascend")
    ours, theirs = (8, 2 * len(points), 4), (8, 2 * len(points), 1)
    assert shape == ours and (again := found())[0] == theirs
    np.testing.assert_allclose(again[1], density, rtol=1e-6)
    np.testing.assert_allclose(again[2], table, rtol=1e-5, atol=1e-7)


def test_evaluate_in_pieces_is_the_field():
    field, points = excited("dense", False), some_points(70)
    sigma, rgb = field.evaluate(points, chunk=32)
    expected = forward(field, points)
    np.testing.assert_allclose(sigma, np.exp(np.clip(expected[0], -8, 8)), rtol=1e-3)
    np.testing.assert_allclose(rgb, expected[1], rtol=1e-4)


def test_the_same_seed_is_the_same_field():
    a, b, c = (Field(LEVELS["dense"], HALF, 8, seed=seed) for seed in (1, 1, 2))
    for left, right, other in zip(a.get_parameters(), b.get_parameters(), c.get_parameters()):
        assert np.array_equal(left.asnumpy(), right.asnumpy())
        assert "bias" in left.name or not np.array_equal(left.asnumpy(), other.asnumpy())
