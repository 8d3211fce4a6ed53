"""Adam against its formulas in float64."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from sgm import ops
from sgm.ops import adam


class Line(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = ms.Parameter(Tensor(np.float32([1.0, -2.0])), name="weight")

    def construct(self, x):
        return (self.weight * x).sum(), x.sum()


def test_adam_is_adam():
    """Two steps of a known gradient against the paper's formulas in float64."""
    line = Line()
    step = adam.AdamStep(line, line.trainable_params())
    m = v = np.zeros(2)
    value, gradients = np.array([1.0, -2.0]), [np.array([0.5, -3.0]), np.array([-1.0, 2.0])]
    for k, g in enumerate(gradients):
        step(adam.rates(k, 0.1 * 0.1 ** (k / 10)), Tensor(g.astype(np.float32)))
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        value = value - 0.1 * 0.1 ** (k / 10) * (m / (1 - 0.9 ** (k + 1))) / np.sqrt(v / (1 - 0.99 ** (k + 1)))
    np.testing.assert_allclose(ops.fetch(line.weight), value, rtol=1e-4)


def test_a_compiled_step_begins_anew():
    """Its graph sees the new values: the loss is theirs, and the moments are those of a first step."""
    line = Line()
    cell = adam.AdamStep(line, line.trainable_params())
    begin, step = ops.compiled(cell.begin), ops.compiled(cell.construct)
    for start in ([1.0, -2.0], [5.0, 3.0]):
        begin(Tensor(np.float32(start)))
        losses = [float(ops.fetch(step(adam.rates(k, 0.1), Tensor(np.float32(x)))[0])) for k, x in enumerate(([4, 2], [1, 1]))]
        # the first step is the rate, whatever the gradient
        np.testing.assert_allclose(losses, [4 * start[0] + 2 * start[1], sum(start) - 0.2], rtol=1e-5)
