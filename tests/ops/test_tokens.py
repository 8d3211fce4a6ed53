"""Rows of tokens in slices: the same values and gradients as at once; their bias and their mix."""
import mindspore as ms
import pytest
from mindspore import Tensor
from support import golden_operators
from support.gradients import both_targets, draw

from sgm import ops
from sgm.ops import tokens


@pytest.mark.parametrize("most, pieces", [(6, 1), (4, 2), (1, 6)])
def test_rows_in_slices(most, pieces, same, monkeypatch):
    """Six rows, at most so many at a time: that many equal pieces, the same values and gradients."""
    monkeypatch.setattr(tokens, "SLICE_BYTES", most * 4 * 5)
    calls = []

    def double(x):
        calls.append(x.shape)
        return 2 * x * x

    ops.in_slices(double, Tensor(draw(0, 6, 3)), 5)
    assert calls == [(6 // pieces, 3)] * pieces
    same(lambda x: ops.in_slices(double, x, 5), lambda x: 2 * x * x, [draw(0, 6, 3)])


@both_targets
def test_mix(target, same):
    """Of two frames of 3 rows, each with its own share of each channel."""
    same(ops.mix, golden_operators.mix, [draw(0, 6, 5), draw(1, 6, 5), draw(2, 2, 5)])


def test_bias_of_half_precision():
    """Its gradient is summed in float32: in float16, 4096 ones would not pass 2048."""
    x, bias = Tensor(draw(0, 4096, 3)).astype(ms.float16), Tensor(draw(1, 3)).astype(ms.float16)
    _, gradient = ms.grad(lambda x, bias: tokens.bias_add(x, bias), (0, 1))(x, bias)
    assert gradient.dtype == ms.float16
    assert gradient.asnumpy().tolist() == [4096.0] * 3
