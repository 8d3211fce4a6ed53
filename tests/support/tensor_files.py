"""Arrays of every kind, and files of them."""
import json

import numpy as np
import pytest

from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.common.errors import InputError

RANDOM = np.random.RandomState(0)
WEIGHT, BIAS = RANDOM.randn(4, 3).astype(np.float32), RANDOM.randn(4).astype(np.float32)


def tensors(**changes):
    """The arrays of a Net; None leaves one out, dots are written __."""
    arrays = {"first.weight": WEIGHT, "first.bias": BIAS, "second.weight": WEIGHT * 2, "second.bias": BIAS * 2}
    arrays.update({key.replace("__", "."): value for key, value in changes.items()})
    return {key: value for key, value in arrays.items() if value is not None}


def saved(folder, arrays=None, name="net.safetensors", **kwargs):
    path = folder / name
    save_safetensors(path, tensors() if arrays is None else arrays, **kwargs)
    return path


def error_of(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:       # a CheckpointError, or that of a file that cannot be written
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def f32(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TENSORS = {"w": RANDOM.randn(7, 5).astype(np.float32), "half": RANDOM.randn(3).astype(np.float16),
           "é ü": RANDOM.randn(2, 3, 1),
           "scalar": np.array(2.5, np.float32), "int": np.arange(5), "bool": np.array([True, False])}
