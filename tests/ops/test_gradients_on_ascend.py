"""What the audit and the check found stays fixed."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support import golden_operators
from support.auditing import graph_of

from sgm import ops
from sgm.audit import operator_cases
from sgm.ops import attend, convolution

pytestmark = pytest.mark.usefixtures("cpu_afterwards")


@pytest.mark.parametrize("target", ops.TARGETS)
def test_gelu_in_float16(target, relative_error):
    """Far from zero too, where a polynomial in float16 gave x instead of 0."""
    ops.set_target(target)
    x = np.linspace(-9, 9, 1001).astype(np.float16)
    exact = golden_operators.gelu(x.astype(np.float64))
    assert relative_error(ops.gelu(Tensor(x)), exact) < 5e-4
    assert relative_error(ops.gelu(Tensor(x[x < 0])), exact[x < 0]) < 1e-3


def test_a_convolution_over_the_frames_of_a_large_image(monkeypatch, relative_error):
    """More pixels than Ascend's convolution takes rows: in as many pieces as it needs, with the same result."""
    monkeypatch.setattr(convolution, "ASCEND_CONV_HEIGHT", 3)
    ops.set_target("Ascend")
    x, weight, bias = (golden_operators.draw(name, shape) for name, shape in (
        ("x", (6, 4, 2, 4)), ("weight", (5, 4, 3, 1, 1)), ("bias", (5,))))
    found = ms.jit(operator_cases.time_conv_nchw)(*map(Tensor, (x, weight, bias)))
    assert relative_error(found, golden_operators.time_conv_nchw(x, weight, bias)) < 1e-6
    weight = Tensor(weight)

    def convolve(x):
        return ops.time_conv_nchw(x, weight, None)

    graph = graph_of(convolve, ("float32", 2, 4, 8, 3))
    heights = [node.tensors[0].shape[2] for node in graph.nodes if node.op == "Conv2D"]
    assert sum(heights) == 8 and max(heights) == 3 and len(heights) == 3


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
