"""The field against float64 numpy written another way."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support.encoding_reference import HALF, LEVELS, reference, some_points

from sgm import ops
from sgm.reconstruct.nerf import encoding
from sgm.reconstruct.nerf.field import Field


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
