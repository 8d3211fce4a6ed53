"""The optimizer step: whole, as one graph, against float64; in its parts: accumulation, scale of the loss, half precision,
steps that are left out, the average."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from sgm.train.optimizer import TrainStep

BETAS, EPS, DECAY = (0.8, 0.95), 0.05, 0.1      # an eps that matters
RNG = np.random.RandomState(0)
WEIGHT, BIAS = RNG.randn(3, 2).astype(np.float32), RNG.randn(4).astype(np.float32)
X, Y = RNG.randn(4, 2).astype(np.float32), RNG.randn(4, 3).astype(np.float32)


class Quadratic(nn.Cell):
    """|W x - y|^2 + |b|^2, in the precision of W."""

    def __init__(self, weight=WEIGHT, bias=BIAS):
        super().__init__()
        self.weight, self.bias = Parameter(Tensor(weight), name="weight"), Parameter(Tensor(bias), name="bias")

    def construct(self, x, y):
        error = ms.ops.matmul(self.weight, x.astype(self.weight.dtype)).astype(ms.float32) - y
        bias = self.bias.astype(ms.float32)
        return (error * error).sum() + (bias * bias).sum()


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


def made(graph=ms.jit, **options):
    """A step and its parts as graphs, or as `graph` makes them."""
    objective = Quadratic()
    step = TrainStep(objective, [objective.weight, objective.bias], BETAS, EPS, DECAY, **options)
    names = "accumulate", "all_reduce_norm", "update", "clear", "show_average", "show_weights"
    return objective, step, {name: graph(getattr(step, name)) for name in names}


def as_it_is(function):
    return function


def by_hand(batches, rates):
    """float64 AdamW on the mean gradient of each of `batches` -> weights, averages, norms."""
    values = [WEIGHT.astype(np.float64), BIAS.astype(np.float64)]
    m, v, average = [0, 0], [0, 0], [value.copy() for value in values]
    norms = []
    for number, (batch, (lr, follow)) in enumerate(zip(batches, rates), 1):
        gradients = [np.mean([2 * np.outer(values[0] @ X[k] - Y[k], X[k]) for k in batch], 0), 2 * values[1]]
        norms.append(np.sqrt(sum((gradient ** 2).sum() for gradient in gradients)))
        for i, gradient in enumerate(gradients):
            m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * gradient
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * gradient ** 2
            corrected = m[i] / (1 - BETAS[0] ** number), v[i] / (1 - BETAS[1] ** number)
            values[i] = values[i] * (1 - lr * DECAY) - lr * corrected[0] / (np.sqrt(corrected[1]) + EPS)
            average[i] = follow * average[i] + (1 - follow) * values[i]
    return values, average, norms


RATES = [(0.1, 0.1), (0.3, 0.5), (0.05, 0.9)]


@pytest.mark.parametrize("batches, scale", [
    ([[0], [1], [2]], 1.0), ([[0, 1], [1, 3], [2, 2]], 1.0), ([[0, 1, 2], [3, 1, 0]], 64.0)])
def test_accumulation_and_scale(batches, scale, relative_error):
    """The mean gradient of several batches; a scaled loss leaves no trace."""
    count = len(batches[0])
    _, step, run = made(accumulate=count)
    values, average, norms = by_hand(batches, RATES)
    for number, (batch, (lr, follow)) in enumerate(zip(batches, RATES), 1):
        for k in batch:
            run["accumulate"](Tensor(np.float32(scale)), Tensor(X[k]), Tensor(Y[k]))
        norm = float(run["all_reduce_norm"](Tensor(np.float32(0)))[0].asnumpy()) / scale / count
        assert norm == pytest.approx(norms[number - 1], rel=1e-5)
        run["update"](step.rates(number, lr, follow), Tensor(np.float32(1 / scale / count)))
    for ours, theirs in zip((*step.weights, *step.average), (*values, *average)):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_that_is_left_out(count):
    """What was not finite leaves nothing behind: the next step is as if it had not been."""
    found = []
    for bad in (False, True):
        _, step, run = made(as_it_is, accumulate=count)
        one = Tensor(np.float32(1))
        if bad:
            for _ in range(count):
                run["accumulate"](one, Tensor(np.full(2, np.inf, np.float32)), Tensor(Y[0]))
            assert not np.isfinite(run["all_reduce_norm"](Tensor(np.float32(0)))[0].asnumpy())
            if count > 1:
                run["clear"]()
        for k in range(count):
            run["accumulate"](one, Tensor(X[k]), Tensor(Y[k]))
        run["update"](step.rates(1, 0.1, 0.5), one)
        found.append([parameter.asnumpy().copy() for parameter in (*step.weights, *step.m, *step.v, *step.average)])
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*found))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_the_average_in_the_weights_place(half, count):
    objective, step, run = made(accumulate=count, half=half)
    if half:
        for parameter in objective.get_parameters():
            parameter.set_dtype(ms.float16)
    one = Tensor(np.float32(1))

    def advance(number):
        for k in range(count):
            run["accumulate"](one, Tensor(X[k]), Tensor(Y[k]))
        run["update"](step.rates(number, 0.1, 0.5), one)
    advance(1)
    before = [parameter.asnumpy().copy() for parameter in (*step.weights, *step.average)]
    run["show_average"]()
    for weight, average in zip(step.weights, step.average):
        np.testing.assert_array_equal(weight.asnumpy(), average.asnumpy().astype(weight.asnumpy().dtype))
        assert (weight.asnumpy() != before[0 if weight.name == "weight" else 1]).any()
    run["show_weights"]()
    for parameter, value in zip((*step.weights, *step.average), before):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
    assert count == 1 or not any(total.asnumpy().any() for total in step.sums)
    advance(2)


def test_half_precision_keeps_its_weights_in_float32(relative_error):
    """Small changes add up in `master`, which float16 weights would round away."""
    objective, step, run = made(half=True)
    for parameter in objective.get_parameters():
        parameter.set_dtype(ms.float16)
    one = Tensor(np.float32(1))
    for number in range(1, 21):
        run["accumulate"](Tensor(np.float32(1024)), Tensor(X[0]), Tensor(Y[0]))
        run["update"](step.rates(number, 1e-5, 0.5), Tensor(np.float32(1 / 1024)))
    values, _, _ = by_hand([[0]] * 20, [(1e-5, 0.5)] * 20)
    moved = values[0] - WEIGHT
    assert relative_error(step.master[0].asnumpy() - WEIGHT, moved) < 0.02
    assert objective.weight.dtype == ms.float16 and one.dtype == step.m[0].dtype == ms.float32
    np.testing.assert_array_equal(objective.weight.asnumpy(), step.master[0].asnumpy().astype(np.float16))


@pytest.mark.slow
def test_the_update_compiles_in_little_memory():
    """A hundred weights take 0.1 GB; with operators of tensors and rates unpacked for each, it was 0.32 GB."""
    weights = [Parameter(Tensor(np.ones(2 + k, np.float32)), name=f"w{k}") for k in range(100)]
    step = TrainStep(Quadratic(), weights)

    def resident():
        return next(int(line.split()[1]) / 1e6 for line in open("/proc/self/status") if line.startswith("VmRSS"))
    before = resident()
    ms.jit(step.update)(step.rates(1, 0.1, 0.5), Tensor(np.float32(1))).asnumpy()
    assert resident() - before < 0.2


class TwoLayers(nn.Cell):
    """|W2 W1 x + b - y|^2, with matrices that Muon updates, one of each shape, and a vector."""

    def __init__(self):
        super().__init__()
        rng = np.random.RandomState(1)
        self.one, self.two = (Parameter(Tensor(rng.randn(*shape).astype(np.float32) / 8), name=name)
                              for name, shape in (("one.weight", (48, 4, 3, 3)), ("two.weight", (40, 48))))
        self.bias = Parameter(Tensor(rng.randn(40).astype(np.float32)), name="two.bias")

    def construct(self, x, y):
        inner = ms.ops.matmul(self.one.reshape(48, 36), x)
        error = ms.ops.matmul(self.two, inner) + self.bias - y
        return (error * error).sum()


def orthogonal(matrix):
    """The nearest orthogonal matrix's directions with Newton-Schulz's own singular values: float64."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s ** 2).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
    return u * s @ v


@pytest.mark.parametrize("half", [False, True])
def test_three_steps_of_muon_by_hand(half, relative_error):
    """Momentum, Nesterov's form, decay, average of matrices against float64; the bias is AdamW's as without Muon."""
    rng = np.random.RandomState(2)
    x, y = rng.randn(36).astype(np.float32), rng.randn(40).astype(np.float32)
    objective = TwoLayers()
    step = TrainStep(objective, objective.trainable_params(), BETAS, EPS, DECAY, with_muon=True, half=half)
    exact = [w.asnumpy().astype(np.float64).reshape(len(w.asnumpy()), -1) for w in (objective.one, objective.two)]
    bias = objective.bias.asnumpy().astype(np.float64)
    momentum, average, m, v = [0, 0], [value.copy() for value in exact], 0, 0
    run = ms.jit(step.construct)
    for number, (lr, follow) in enumerate(RATES, 1):
        run(step.rates(number, lr, follow), Tensor(x), Tensor(y))
        error = 2 * (exact[1] @ exact[0] @ x + bias - y)
        gradients = [np.outer(exact[1].T @ error, x), np.outer(error, exact[0] @ x)]
        for i, gradient in enumerate(gradients):
            momentum[i] = 0.95 * momentum[i] + gradient
            turned = orthogonal(gradient + 0.95 * momentum[i])
            exact[i] = exact[i] * (1 - lr * DECAY) - lr * 0.2 * np.sqrt(max(gradient.shape)) * turned
            average[i] = follow * average[i] + (1 - follow) * exact[i]
        m, v = BETAS[0] * m + (1 - BETAS[0]) * error, BETAS[1] * v + (1 - BETAS[1]) * error ** 2
        bias = bias * (1 - lr * DECAY) - lr * m / (1 - BETAS[0] ** number) / (
            np.sqrt(v / (1 - BETAS[1] ** number)) + EPS)
    for ours, theirs in zip((objective.one, objective.two, objective.bias, *step.average[:2]), (*exact, bias, *average)):
        assert relative_error(ours.asnumpy().reshape(theirs.shape), theirs) < 1e-3
    assert [sorted(found) for found in step.moments()] == [["average", "m"]] * 2 + [["average", "m", "v"]]
