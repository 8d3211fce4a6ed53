"""Rows taken and added up, and the gradients of both, by hand and against numpy."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from sgm.ops import scatter

INDEX = np.array([2, 0, 2, 2], np.int32)       # row 1 is not asked for, row 2 three times


@pytest.mark.parametrize("shape", [(), (2,)], ids=["numbers", "rows"])
@pytest.mark.parametrize("compile", [lambda f: f, ms.jit], ids=["pynative", "graph"])
def test_take_and_put_and_their_gradients(shape, compile):
    rng = np.random.RandomState(0)
    values, parts, factor = (rng.standard_normal((n, *shape)).astype(np.float32) for n in (3, 4, 4))
    index, weights = Tensor(INDEX), Tensor(factor)

    def taken(x):
        return (scatter.take(x, index) * weights).sum()

    def added(x):
        return (scatter.put(x, index, 3) * Tensor(values)).sum()

    summed = np.zeros_like(values)
    np.add.at(summed, INDEX, factor)
    loss, gradient = compile(ms.value_and_grad(taken))(Tensor(values))
    np.testing.assert_allclose(loss.asnumpy(), (values[INDEX] * factor).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), summed, rtol=1e-6)
    summed[:] = 0
    np.add.at(summed, INDEX, parts)
    loss, gradient = compile(ms.value_and_grad(added))(Tensor(parts))
    np.testing.assert_allclose(loss.asnumpy(), (summed * values).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), values[INDEX], rtol=1e-6)


def test_by_hand():
    found = scatter.put(Tensor(np.float32([1, 10, 100, 1000])), Tensor(INDEX), 4).asnumpy()
    assert found.tolist() == [10, 0, 1101, 0]
    assert scatter.take(Tensor(np.float32([5, 6, 7])), Tensor(INDEX)).asnumpy().tolist() == [7, 5, 7, 7]
