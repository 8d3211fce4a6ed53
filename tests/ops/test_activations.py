"""Activations against numpy in float64, values and gradients."""
import numpy as np
import pytest
from mindspore import Tensor
from scipy.special import erf
from support import golden_operators
from support.gradients import both_targets, draw, exact_softmax

from sgm import ops


def exact_gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


@both_targets
def test_gelu(target, same):
    same(ops.gelu, exact_gelu, [3 * draw(0, 5, 7)])


def test_silu_and_softmax(same):
    same(ops.silu, lambda x: x / (1 + np.exp(-x)), [3 * draw(0, 5, 7)])
    same(ops.softmax, exact_softmax, [3 * draw(1, 2, 5, 7)])


@pytest.mark.parametrize("rows", [3, 9])
def test_geglu(rows, same):
    """Value first, then gate; cut before or after the product, whichever moves less memory."""
    def exact(x, weight, bias):
        value, gate = np.split(x @ weight.T + bias, 2, axis=1)
        return value * exact_gelu(gate)
    same(ops.geglu, exact, [draw(0, rows, 5), draw(1, 8, 5), draw(2, 8)])


@pytest.mark.usefixtures("cpu_afterwards")
@pytest.mark.parametrize("target", ops.TARGETS)
def test_gelu_in_float16(target, relative_error):
    """Far from zero too, where a polynomial in float16 gave x instead of 0."""
    ops.set_target(target)
    x = np.linspace(-9, 9, 1001).astype(np.float16)
    exact = golden_operators.gelu(x.astype(np.float64))
    assert relative_error(ops.gelu(Tensor(x)), exact) < 5e-4
    assert relative_error(ops.gelu(Tensor(x[x < 0])), exact[x < 0]) < 1e-3
