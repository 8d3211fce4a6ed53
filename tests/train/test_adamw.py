"""A whole step as one graph, on a problem with known gradients: AdamW, clipping, moving average against float64."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from sgm.train.optimizer import TrainStep


class Quadratic(nn.Cell):
    """|W x - y|^2 + |b|^2."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = Parameter(Tensor(weight), name="weight"), Parameter(Tensor(bias), name="bias")

    def construct(self, x, y):
        error = ms.ops.matmul(self.weight, x) - y
        return (error * error).sum() + (self.bias * self.bias).sum()


@pytest.mark.parametrize("clip_norm", [0.0, 10.0])
def test_three_steps_by_hand(clip_norm, relative_error):
    """AdamW (decoupled decay, bias correction), clipping by the global norm, moving average; against float64."""
    rng = np.random.RandomState(0)
    values = [rng.randn(3, 2).astype(np.float32), rng.randn(4).astype(np.float32)]
    x, y = rng.randn(2).astype(np.float32), rng.randn(3).astype(np.float32)
    objective = Quadratic(*values)
    betas, decay, eps = (0.8, 0.95), 0.1, 0.05     # an eps that matters
    step = TrainStep(objective, [objective.weight, objective.bias], betas, eps, decay, clip_norm)
    run = ms.jit(step.construct)

    exact = [value.astype(np.float64) for value in values]
    m, v, average = ([np.zeros(value.shape) for value in exact], [np.zeros(value.shape) for value in exact],
                     [value.copy() for value in exact])
    norms = []
    for number, (lr, average_decay) in enumerate([(0.1, 0.1), (0.3, 0.5), (0.05, 0.9)], 1):
        loss, norm = run(step.rates(number, lr, average_decay), Tensor(x), Tensor(y))
        error = exact[0] @ x - y
        assert float(loss.asnumpy()) == pytest.approx((error ** 2).sum() + (exact[1] ** 2).sum(), rel=1e-5)
        gradients = [2 * np.outer(error, x), 2 * exact[1]]
        norms.append(np.sqrt(sum((g ** 2).sum() for g in gradients)))
        assert float(norm.asnumpy()) == pytest.approx(norms[-1], rel=1e-5)
        clip = min(1, clip_norm / (norms[-1] + 1e-6)) if clip_norm else 1
        for i, gradient in enumerate(gradients):
            m[i] += (1 - betas[0]) * (clip * gradient - m[i])
            v[i] += (1 - betas[1]) * ((clip * gradient) ** 2 - v[i])
            corrected = m[i] / (1 - betas[0] ** number), v[i] / (1 - betas[1] ** number)
            exact[i] = exact[i] * (1 - lr * decay) - lr * corrected[0] / (np.sqrt(corrected[1]) + eps)
            average[i] = average_decay * average[i] + (1 - average_decay) * exact[i]
        for ours, theirs in zip((*step.weights, *step.m, *step.v, *step.average), (*exact, *m, *v, *average)):
            assert relative_error(ours, theirs) < 1e-5
    assert norms[0] > 10 > norms[-1]    # a bound of 10 acts on some steps and not on others
