"""Attention against numpy in float64, whole and in slices, and the embedding of timesteps."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support import golden_operators
from support.gradients import draw, exact_softmax

from sgm import ops
from sgm.ops import attend


def exact_attention(q, k, v):
    return exact_softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])) @ v


# Bytes of scores at once: all six matrices of 7 x 7; up to four, so two equal slices; two rows of one matrix at a time.
@pytest.mark.parametrize("limit", [512 << 20, 4 * 7 * 7 * 4, 2 * 7 * 4])
def test_attention_in_slices(limit, same, monkeypatch):
    monkeypatch.setattr(attend, "SCORE_BYTES", limit)
    monkeypatch.setattr(attend, "ASCEND_SCORE_BYTES", 1)        # read under that target only
    calls, whole = [], attend._attend

    def counted(q, k, v):
        calls.append(q.shape)
        return whole(q, k, v)

    monkeypatch.setattr(attend, "_attend", counted)
    arrays = [draw(i, 2, 3, 7, 4) for i in range(3)]
    ops.attention(*map(Tensor, arrays))
    assert calls == {512 << 20: [(6, 7, 4)], 784: [(3, 7, 4)] * 2,
                     56: [(1, 2, 4), (1, 2, 4), (1, 2, 4), (1, 1, 4)] * 6}[limit]
    same(ops.attention, exact_attention, arrays)


@pytest.mark.parametrize("limit", [512 << 20, 3 * 7 * 5 * 4, 2 * 5 * 4])
def test_attention_to_other_tokens(limit, same, monkeypatch):
    """7 queries, 5 keys: whole, in two slices of three matrices, and two rows at a time."""
    monkeypatch.setattr(attend, "SCORE_BYTES", limit)
    same(ops.attention, exact_attention, [draw(0, 2, 3, 7, 4), draw(1, 2, 3, 5, 4), draw(2, 2, 3, 5, 4)])


def test_timestep_embedding_by_its_formula(relative_error):
    """Cosines, then sines, of frequencies from 1 down to nearly 1 / 10000; numbers may be negative."""
    values = np.array([-1.5, 0, 0.25, 127], np.float32)
    angles = values.astype(np.float64)[:, None] * 10000.0 ** (-np.arange(8) / 8)
    exact = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    assert relative_error(ops.timestep_embedding(Tensor(values), 16), exact) < 2e-6


@pytest.fixture
def shallow():
    """A tenth of the calls that MindSpore allows within each other."""
    ms.set_recursion_limit(100)
    yield
    ms.set_recursion_limit(1000)


def test_attention_in_many_slices_compiles(monkeypatch, relative_error, shallow):
    """A tenth of those that SVD has at full size in float32; MindSpore refuses a loop of so many turns."""
    monkeypatch.setattr(attend, "SCORE_BYTES", 3 * 3 * 4)
    arrays = [golden_operators.draw(name, (8, 5, 3, 2)) for name in "qkv"]
    exact = golden_operators.attention(*(array.astype(np.float64) for array in arrays))
    assert relative_error(ms.jit(ops.attention)(*map(Tensor, arrays)), exact) < 1e-6
