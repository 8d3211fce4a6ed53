"""Elementwise functions of token rows: GELU, SiLU, GEGLU, softmax."""
import mindspore as ms
from mindspore import nn, ops
from mindspore.ops import operations as P

from sgm.ops.device import on_ascend
from sgm.ops.tokens import depend, held, linear, matmul, ones

_softmax = P.Softmax(-1)
_sigmoid = P.Sigmoid()
_exp = P.Exp()
_reduce_sum = P.ReduceSum(keep_dims=True)


class _Softmax(nn.Cell):
    """Softmax over the last axis; the CPU's own gradient is 20 times slower on small rows."""

    def construct(self, x):
        return _softmax(x)

    def bprop(self, x, out, dout):
        weighted = out * dout
        if on_ascend():
            sums = _reduce_sum(weighted, -1)
        else:       # a product with ones is 10 times faster than the CPU's sum
            width = out.shape[-1]
            sums = matmul(weighted.reshape(-1, width), ones(width, 1).astype(out.dtype))
            sums = sums.reshape(out.shape[:-1] + (1,))
        return (weighted - out * sums,)


class _NormalCdf(nn.Cell):
    """The standard normal distribution function Phi(x), with the density as its gradient."""

    def construct(self, x):
        square = x * x
        p = 3.62785432e-9 * square - 2.67566390e-7
        p = p * square + 7.94814141e-6
        p = p * square - 1.10546773e-4
        p = p * square - 6.60534043e-5
        p = p * square + 7.26682982e-2
        p = p * square + 1.59576854
        return _sigmoid(p * x)

    def bprop(self, x, out, dout):
        return (dout * (0.3989422804014327 * _exp(-0.5 * x * x)),)


class _Gated(nn.Cell):
    """value * GELU(gate), and Phi(gate), which its gradient needs."""

    def construct(self, value, gate):
        cdf = _normal_cdf(gate.astype(ms.float32)).astype(gate.dtype)
        return value * (gate * cdf), cdf

    def bprop(self, value, gate, out, dout):
        cdf = out[1]
        dout = dout[0]
        density = 0.3989422804014327 * _exp(-0.5 * gate * gate)
        return dout * (gate * depend(cdf, dout)), dout * value * (cdf + gate * density)


class _WideGelu(nn.Cell):
    """Exact GELU in the forms that Ascend has, with a gradient that takes x alone.

    By itself, MindSpore keeps four more arrays of x's size for it, in float32 where x is bfloat16:
    half of all that a block keeps for its backward pass.
    """

    def construct(self, x):
        wide = _widened(x)
        return (wide * _twice_normal_cdf(wide) * 0.5).astype(x.dtype)

    def bprop(self, x, out, dout):
        wide = _widened(x)
        density = 0.3989422804014327 * _exp(-0.5 * wide * wide)
        slope = 0.5 * _twice_normal_cdf(wide) + wide * density
        return ((slope * dout.astype(wide.dtype)).astype(x.dtype),)


def _widened(x):
    """Return bfloat16 as float32: a 910B has neither Erfc nor Exp in bfloat16."""
    return x.astype(ms.float32) if x.dtype == ms.bfloat16 else x


def _twice_normal_cdf(x):
    """Return 2 Phi(x); erfc keeps the tail that 1 + erf loses in float16, in fewer operations."""
    return ops.erfc(x * -0.7071067811865476)


softmax = _Softmax()
_normal_cdf = _NormalCdf()
_wide_gelu = _WideGelu()
_gated = _Gated()


def gelu(x):
    """Return the exact GELU, x * Phi(x) (the CPU's tanh form is off by 1e-4)."""
    if on_ascend():
        return _wide_gelu(x)
    # The polynomial's coefficients underflow in float16.
    return x * _normal_cdf(x.astype(ms.float32)).astype(x.dtype)


def silu(x):
    """Return x * sigmoid(x); on a CPU in float32, whose kernel for float16 is 20 times slower."""
    if on_ascend() or x.dtype == ms.float32:
        return ops.silu(x)
    return ops.silu(x.astype(ms.float32)).astype(x.dtype)


def geglu(x, weight, bias):
    """Return value * GELU(gate), (rows, inner), of one projection of x (rows, in).

    weight (2 * inner, in): value, then gate.
    """
    inner = weight.shape[0] // 2
    weight, bias = held(depend(weight, x), x), held(depend(bias, x), x)
    # Of weight and result, the smaller is cut in two: that moves less memory.
    if x.shape[0] > x.shape[1]:
        value = linear(x, weight[:inner], bias[:inner])
        gate = linear(x, weight[inner:], bias[inner:])
    else:
        both = linear(x, weight, bias)
        value, gate = both[:, :inner], both[:, inner:]
    return value * gelu(gate) if on_ascend() else _gated(value, gate)[0]
