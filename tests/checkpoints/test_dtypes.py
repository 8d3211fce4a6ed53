"""Rounding to other precisions."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from sgm.checkpoints.dtypes import cast

RANDOM = np.random.RandomState(0)


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def widened(brain):
    return (brain.astype(np.uint32) << 16).view(np.float32)


def test_bfloat16_is_rounded_as_mindspore_does():
    numbers = np.concatenate([RANDOM.randn(20_000) * 10.0 ** RANDOM.randint(-38, 38, 20_000), [0.0, -0.0, 1e-45, -1e-40]])
    numbers = np.clip(numbers, -3e38, 3e38).astype(np.float32)
    theirs = Tensor(numbers).astype(ms.bfloat16).astype(ms.float32).asnumpy()
    assert np.array_equal(widened(cast(numbers, "F32", "BF16")), theirs)


def test_bfloat16_ties_go_to_even_and_every_value_is_kept():
    every = np.arange(1 << 16, dtype=np.uint16)
    number = ~np.isnan(widened(every))
    kept = cast(widened(every), "F32", "BF16")
    assert np.array_equal(kept[number], every[number]) and np.isnan(widened(kept[~number])).all()
    odd = np.uint32([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001]).view(np.float32)  # which rounding would make numbers
    assert np.isnan(widened(cast(odd, "F32", "BF16"))).all()
    below = every[np.isfinite(widened(every)) & np.isfinite(widened(every + np.uint16(1)))]
    middle = ((below.astype(np.uint32) << 16) + 0x8000).view(np.float32)
    assert np.array_equal(cast(middle, "F32", "BF16"), below + (below & 1))
    assert np.array_equal(cast((middle.view(np.uint32) + 1).view(np.float32), "F32", "BF16"), below + 1)


@pytest.mark.parametrize("found, wanted, array", [
    ("F32", "F16", np.float32([65504, -1e-8, np.inf, np.nan, 1.0005])), ("F16", "F32", np.float16([1.5, -np.inf, 6e-8])),
    ("F64", "F32", np.array([0.1, 1e-50])), ("F32", "F32", np.float32([1.1]))])
def test_other_precisions_are_numpys(found, wanted, array):
    expected = array.astype({"F16": np.float16, "F32": np.float32}[wanted])
    assert np.array_equal(bits(cast(array, found, wanted)), bits(expected))


@pytest.mark.parametrize("found, wanted, value", [
    ("F32", "F16", np.float32(1e5)), ("F64", "F32", np.float64(1e39)), ("F64", "BF16", np.float64(1e39)),
    ("F32", "BF16", np.float32(3.4e38)), ("BF16", "F16", np.uint16(0x7F00))])
def test_a_number_never_becomes_infinite(found, wanted, value):
    with pytest.raises(OverflowError):
        cast(np.array([0, value], value.dtype), found, wanted)
