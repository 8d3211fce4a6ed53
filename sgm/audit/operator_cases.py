"""The operators of `sgm.ops` and others that networks need, on small shapes, for `tools/check.py`.

The arrays that go in and the expected ones are in golden/operators.npz, made by
tests/support/golden_operators.py.
"""
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from sgm import ops
from sgm.diffusion.denoiser import scalings
from sgm.diffusion.guidance import guide
from sgm.train.optimizer import TrainStep

# Relative L2 error allowed of values and of gradients, by the precision of the inputs. HF32 (3e-4)
# must show in float32.
LIMITS = {"float32": (1e-4, 2e-4), "float16": (5e-3, 2e-2), "bfloat16": (4e-2, 1e-1)}
GRID = (2, 3, 2, 4)             # videos, frames, height, width of tokens


@dataclass
class Operator:
    """One operator to try.

    function: maps tensors to a tensor. half: the UNet uses it in its own precision. trained: it
    needs gradients. graph: it is compiled as a whole; else it does that itself.
    """
    function: Callable
    half: bool = True
    trained: bool = True
    graph: bool = True


def conv3x3(stride=1, upsample=False):
    """Return the convolution of 2 frames of 4 x 6 tokens."""
    def function(x, weight, bias):
        return ops.conv3x3(x, weight, bias, 2, 4, 6, stride, upsample)
    return function


def conv2d(stride=1, pad=(1, 1, 1, 1)):
    """Return the convolution of maps."""
    def function(x, weight, bias):
        return ops.conv2d(x, weight, bias, stride, pad)
    return function


def time_conv_nchw(x, weight, bias):
    """Convolve maps of 3 frames over time."""
    return ops.from_time(ops.time_conv_nchw(ops.to_time(x, 3), weight, bias), 3, 2, 4)


def heads(over_time):
    """Return what splits tokens into 2 heads, weighs them there, and merges them."""
    def function(x, weight):
        return ops.merge_heads(ops.split_heads(x, GRID, 2, over_time) * weight, GRID, over_time)
    return function


def group_norm(x, weight, bias):
    """Normalize 4 groups over each of 2 videos."""
    return ops.group_norm(x, weight, bias, 2, groups=4)


def group_norm_nchw(x, weight, bias):
    """Normalize 4 groups over each of 2 maps."""
    return ops.group_norm_nchw(x, weight, bias, ops.group_norm_of(4, 1e-6))


def temporal_conv(x, weight, bias):
    """Convolve 2 videos of 3 frames over time."""
    return ops.temporal_conv(x, weight, bias, 2, 3)


def permute_rows(x, weight):
    """Bring rows of 2 x 3 x 4 into another order, and weigh them there."""
    return ops.permute_rows(x, (2, 3, 4), (0, 2, 1)) * weight


def repeat_rows(x):
    """Repeat each of 3 vectors on 4 rows."""
    return ops.repeat_rows(x, 12)


def timestep_embedding(values):
    """Return 16 sinusoids."""
    return ops.timestep_embedding(values, 16)


def frame_index(values):
    """Return frame numbers of 2 videos of 3 frames, added to something."""
    return ops.frame_index(2, 3) + values


def preconditioning(sigma):
    """Return the denoiser's four factors."""
    return ms.ops.stack(scalings(sigma))


class _Line(nn.Cell):
    """mean (x w^T)^2."""

    def __init__(self, weight):
        super().__init__()
        self.weight = Parameter(weight, name="weight")

    def construct(self, x):
        y = ops.linear(x, self.weight)
        return (y * y).mean()


def adamw(x, weight):
    """Take two optimizer steps on mean (x w^T)^2.

    Returns one row: weights, their average, the last loss, its gradient's norm.
    """
    line = _Line(Tensor(weight.asnumpy()))
    step = TrainStep(line, list(line.get_parameters()), weight_decay=0.1, clip_norm=0.5)
    advance = ops.compiled(step.construct)
    for i in (1, 2):
        loss, norm = advance(step.rates(i, 0.01, 0.9), x)
    flat = [line.weight.reshape(-1), step.average[0].reshape(-1), loss.reshape(1), norm.reshape(1)]
    return ms.ops.concat(flat)


OPERATORS = {
    "linear": Operator(ops.linear),
    "geglu": Operator(ops.geglu),
    "geglu, few rows": Operator(ops.geglu),
    "gelu": Operator(ops.gelu),
    "silu": Operator(ops.silu),
    "softmax": Operator(ops.softmax),
    "layer_norm": Operator(ops.layer_norm),
    "group_norm": Operator(group_norm),
    "group_norm_nchw": Operator(group_norm_nchw, half=False),
    "conv3x3": Operator(conv3x3()),
    "conv3x3, stride 2": Operator(conv3x3(stride=2)),
    "conv3x3, upsampled": Operator(conv3x3(upsample=True)),
    "conv2d, 3 x 3": Operator(conv2d(), half=False),
    "conv2d, 1 x 1": Operator(conv2d(pad=(0, 0, 0, 0)), half=False),
    "conv2d, stride 2": Operator(conv2d(2, (0, 1, 0, 1)), half=False),
    "temporal_conv": Operator(temporal_conv),
    "time_conv_nchw": Operator(time_conv_nchw, half=False),
    "upsample_nchw": Operator(ops.upsample_nchw),
    "attention": Operator(ops.attention),
    # flash attention on Ascend, in half precision
    "attention, 256 tokens": Operator(ops.attention, trained=False),
    "heads over pixels": Operator(heads(False)),
    "heads over time": Operator(heads(True)),
    "permute_rows": Operator(permute_rows),
    "repeat_rows": Operator(repeat_rows),
    "mix": Operator(ops.mix),
    "timestep_embedding": Operator(timestep_embedding, half=False, trained=False),
    "frame_index": Operator(frame_index, half=False, trained=False),
    "preconditioning": Operator(preconditioning, half=False, trained=False),
    "guidance": Operator(guide, half=False, trained=False),
    "adamw": Operator(adamw, half=False, trained=False, graph=False),
}


def run(name, arrays, dtype="float32", cotangent=None):
    """Run the operator `name` on numpy arrays in the precision `dtype`.

    Returns its value and a list of its gradients, which is empty unless a `cotangent` (an array
    shaped as the value) is given: numpy float32 arrays.
    """
    operator = OPERATORS[name]
    tensors = [Tensor(array).astype(getattr(ms, dtype)) for array in arrays]
    function = operator.function
    if cotangent is None:
        value, gradients = (ops.compiled(function) if operator.graph else function)(*tensors), ()
    else:
        def weighted(*inputs):
            value = function(*inputs)
            return (value.astype(ms.float32) * cotangent).sum(), value

        cotangent = Tensor(cotangent)
        graph = ops.compiled(ms.value_and_grad(weighted, tuple(range(len(tensors))), has_aux=True))
        (_, value), gradients = graph(*tensors)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    found = [ops.fetch(tensor.astype(ms.float32)) for tensor in (value, *gradients)]
    return found[0], found[1:]
