"""Rows of tokens in slices: the same values and gradients as at once."""
import pytest
from mindspore import Tensor
from support.gradients import draw

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
