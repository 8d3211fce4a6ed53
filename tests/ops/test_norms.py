"""Norms against numpy in float64, values and gradients."""
import numpy as np
import pytest
from mindspore import Tensor
from support.gradients import both_targets, draw

from sgm import ops


def exact_norm(x, axes, eps):
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred ** 2).mean(axes, keepdims=True) + eps)


@both_targets
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm(eps, target, same):
    def ours(x, weight, bias):
        return ops.layer_norm(x, weight, bias, eps)
    same(ours, lambda x, weight, bias: exact_norm(x, 1, eps) * weight + bias,
         [2 * draw(0, 5, 12) + 1, draw(1, 12), draw(2, 12)])


@both_targets
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_group_norm_of_tokens(eps, target, same):
    """Two videos of 6 rows, 4 groups of 3 channels."""
    def exact(x, weight, bias):
        return exact_norm(x.reshape(2, 6, 4, 3), (1, 3), eps).reshape(12, 12) * weight + bias

    def ours(x, weight, bias):
        return ops.group_norm(x, weight, bias, 2, groups=4, eps=eps)
    same(ours, exact, [2 * draw(0, 12, 12) + 1, draw(1, 12), draw(2, 12)])


@both_targets
@pytest.mark.parametrize("groups, eps", [(32, 1e-6), (8, 1e-5)])
def test_group_norm_of_maps(groups, eps, target, same):
    """Variances near eps, so that it matters; the input in such units that a numeric derivative is exact enough."""
    unit = 3e-3

    def exact(x, weight, bias):
        x = exact_norm((unit * x).reshape(2, groups, -1), 2, eps).reshape(x.shape)
        return x * weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)

    def ours(x, weight, bias):
        return ops.group_norm_nchw(unit * x, weight, bias, ops.group_norm_of(groups, eps))
    same(ours, exact, [draw(0, 2, 64, 2, 3), draw(1, 64), draw(2, 64)])


def test_statistics_far_from_zero(relative_error):
    """A mean of a hundred deviations costs no more than its rounding."""
    x, one, zero = draw(0, 64, 64) + 100, np.ones(64, np.float32), np.zeros(64, np.float32)
    exact = exact_norm(x.astype(np.float64).reshape(2, 32, 32, 2), (1, 3), 1e-5).reshape(64, 64)
    assert relative_error(ops.group_norm(*map(Tensor, (x, one, zero)), 2), exact) < 5e-5
    exact = exact_norm(x.astype(np.float64), 1, 1e-5)
    assert relative_error(ops.layer_norm(*map(Tensor, (x, one, zero))), exact) < 5e-5
