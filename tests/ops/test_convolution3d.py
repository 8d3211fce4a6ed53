"""Convolutions of volumes against scipy in float64, in one piece, in slabs, and in the form for Ascend."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from scipy.ndimage import correlate

from sgm import ops
from sgm.ops import convolution3d

CASES = [(2, 4, 3, 5), (3, 6, 2, 4)]            # volumes, side, channels in and out


class Conv(nn.Cell):
    def __init__(self, count, doubles=False):
        super().__init__()
        self.count, self.doubles = count, doubles

    def construct(self, x, weight, bias):
        if self.doubles:
            return convolution3d.doubled_conv3x3x3(x, weight, bias, self.count)
        return convolution3d.conv3x3x3(x, weight, bias, self.count)


def inputs(count, side, channels, out):
    rng = np.random.default_rng(side)
    return [rng.standard_normal(shape).astype(np.float32) for shape in (
        (count * side ** 3, channels), (out, channels, 3, 3, 3), (out,), (count * side ** 3, out))]


def reference(x, weight, bias, dout, count, side):
    """The convolution and its three gradients, float64."""
    maps = x.astype(float).reshape(count, side, side, side, -1)
    back = dout.astype(float).reshape(count, side, side, side, -1)
    y, dx, dweight = np.zeros_like(back), np.zeros_like(maps), np.zeros(weight.shape)
    padded = np.pad(maps, ((0, 0),) + ((1, 1),) * 3 + ((0, 0),))
    for o in range(weight.shape[0]):
        for c in range(weight.shape[1]):
            kernel = weight[o, c].astype(float)
            for n in range(count):
                y[n, ..., o] += correlate(maps[n, ..., c], kernel, mode="constant")
                dx[n, ..., c] += correlate(back[n, ..., o], kernel[::-1, ::-1, ::-1], mode="constant")
            for place in np.ndindex(3, 3, 3):
                window = padded[(slice(None), *(slice(k, k + side) for k in place), c)]
                dweight[(o, c, *place)] = (window * back[..., o]).sum()
    return y.reshape(len(x), -1) + bias, dx.reshape(x.shape), dweight, dout.astype(float).sum(0)


@pytest.mark.parametrize("count, side, channels, out", CASES)
@pytest.mark.parametrize("form", ["CPU", "slabs", "planes", "Ascend"])
def test_convolution_and_gradients(form, count, side, channels, out, monkeypatch, agree, cpu_afterwards):
    x, weight, bias, dout = inputs(count, side, channels, out)
    if form == "Ascend":
        ops.set_target("Ascend")
    elif form != "CPU":     # one volume at a time, or a few planes of one
        monkeypatch.setattr(convolution3d, "IM2COL_BYTES", side ** 2 * 27 * 4 * (4 * side if form == "slabs" else 10))
    cell = Conv(count)
    arguments = [Tensor(value) for value in (x, weight, bias)]
    graph = ms.jit(ms.ops.GradOperation(get_all=True, sens_param=True)(cell)) if form != "Ascend" else (
        ms.ops.GradOperation(get_all=True, sens_param=True)(cell))
    wanted = reference(x, weight, bias, dout, count, side)
    agree(f"conv3x3x3, {form}", cell(*arguments), wanted[0])
    for what, ours, theirs in zip(("x", "weight", "bias"), graph(*arguments, Tensor(dout)), wanted[1:]):
        agree(f"conv3x3x3, {form}, gradient of {what}", ours, theirs)


@pytest.mark.parametrize("count, side, channels, out", CASES)
@pytest.mark.parametrize("form", ["CPU", "Ascend"])
def test_convolution_of_doubled_volumes(form, count, side, channels, out, agree, cpu_afterwards):
    """Folded, against the convolution of what numpy doubled, and its gradients."""
    x, weight, bias, _ = inputs(count, side, channels, out)
    dout = np.random.default_rng(0).standard_normal((8 * len(x), out)).astype(np.float32)
    doubled = x.reshape(count, side, side, side, -1).repeat(2, 1).repeat(2, 2).repeat(2, 3).reshape(8 * len(x), -1)
    y, dx, *others = reference(doubled, weight, bias, dout, count, 2 * side)
    dx = dx.reshape(count, side, 2, side, 2, side, 2, channels).sum((2, 4, 6)).reshape(x.shape)
    if form == "Ascend":
        ops.set_target("Ascend")
    cell = Conv(count, doubles=True)
    gradient = ms.ops.GradOperation(get_all=True, sens_param=True)(cell)
    arguments = [Tensor(value) for value in (x, weight, bias)]
    agree(f"doubled conv3x3x3, {form}", cell(*arguments), y)
    found = (gradient if form == "Ascend" else ms.jit(gradient))(*arguments, Tensor(dout))
    for what, ours, theirs in zip(("x", "weight", "bias"), found, (dx, *others)):
        agree(f"doubled conv3x3x3, {form}, gradient of {what}", ours, theirs)


def test_doubling_and_halving(agree):
    """Means of blocks, and blocks of the same value: by numpy's reshaping."""
    x = np.random.default_rng(0).standard_normal((2 * 4 ** 3, 3)).astype(np.float32)
    volumes = x.reshape(2, 4, 4, 4, 3)
    doubled = volumes.repeat(2, 1).repeat(2, 2).repeat(2, 3).reshape(-1, 3)
    assert (convolution3d.double_volumes(Tensor(x), 2).asnumpy() == doubled).all()
    halved = volumes.reshape(2, 2, 2, 2, 2, 2, 2, 3).mean((2, 4, 6)).reshape(-1, 3)
    agree("halve_volumes", convolution3d.halve_volumes(Tensor(x), 2), halved, 1e-6)
