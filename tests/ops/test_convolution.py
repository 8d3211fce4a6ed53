"""Convolutions against numpy in float64, values and gradients, and against each other."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.ops import operations as P
from support import golden_operators
from support.auditing import graph_of
from support.gradients import both_targets, draw, numeric_gradients, ours_gradients

from sgm import ops
from sgm.audit import operator_cases
from sgm.ops import convolution, device


def exact_conv(x, weight, bias, stride=1, pad=(1, 1, 1, 1)):
    """NCHW cross-correlation; pad = top, bottom, left, right."""
    x = np.pad(x, ((0, 0), (0, 0), pad[:2], pad[2:]))
    rows, columns = weight.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias.reshape(-1, 1, 1)


@pytest.mark.parametrize("form", ["im2col", "slices", "Ascend"])
@pytest.mark.parametrize("stride, upsample", [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("frames, height, width, channels, out", [(2, 4, 6, 3, 2), (1, 2, 2, 2, 20)])
def test_conv3x3(frames, height, width, channels, out, stride, upsample, form, same, monkeypatch):
    """Of tokens; many rows or many channels (the product is then ordered the other way)."""
    if form == "slices":
        monkeypatch.setattr(convolution, "IM2COL_BYTES", 0)
    if form == "Ascend":
        monkeypatch.setattr(device, "_target", "Ascend")

    def exact(x, weight, bias):
        maps = x.reshape(frames, height, width, channels).transpose(0, 3, 1, 2)
        if upsample:
            maps = maps.repeat(2, 2).repeat(2, 3)
        return exact_conv(maps, weight, bias, stride).transpose(0, 2, 3, 1).reshape(-1, out)

    def ours(x, weight, bias):
        return ops.conv3x3(x, weight, bias, frames, height, width, stride, upsample)
    same(ours, exact, [draw(0, frames * height * width, channels), draw(1, out, channels, 3, 3), draw(2, out)])


@both_targets
@pytest.mark.parametrize("kernel, stride, pad", [(3, 1, (1, 1, 1, 1)), (1, 1, (0, 0, 0, 0)), (3, 2, (0, 1, 0, 1))])
def test_conv2d(kernel, stride, pad, target, same):
    """The autoencoder's: 3 x 3, 1 x 1, and of stride 2 padded below and on the right only."""
    def exact(x, weight, bias):
        return exact_conv(x, weight, bias, stride, pad)

    def ours(x, weight, bias):
        return ops.conv2d(x, weight, bias, stride, pad)
    same(ours, exact, [draw(0, 2, 3, 4, 6), draw(1, 5, 3, kernel, kernel), draw(2, 5)])


@pytest.mark.parametrize("height, width", [(4, 6), (5, 7)])
def test_small_strided_maps_are_a_product(height, width, monkeypatch):
    """The CPU's strided convolution rounds otherwise on one core than on two: the small model's views then differed."""
    x, weight = (Tensor(draw(k, *shape)) for k, shape in enumerate([(2, 3, height, width), (5, 3, 3, 3)]))
    stock = P.Conv2D(5, 3, pad_mode="pad", pad=(0, 1, 0, 1), stride=2)(x, weight).asnumpy()
    with monkeypatch.context() as patch:
        patch.setattr(convolution.P, "Conv2D", None)
        np.testing.assert_allclose(ops.conv2d(x, weight, None, 2, (0, 1, 0, 1)).asnumpy(), stock, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(convolution, "IM2COL_BYTES", 0)         # large ones stay: their patches would fill the memory
    assert np.array_equal(ops.conv2d(x, weight, None, 2, (0, 1, 0, 1)).asnumpy(), stock)


def test_gradient_of_the_fast_convolution_is_the_stock_one(relative_error):
    """At a size where rounding shows, and without a bias."""
    x, weight, cotangent = draw(0, 2, 32, 20, 28), draw(1, 48, 32, 3, 3), draw(2, 2, 48, 20, 28)

    def stock(x, weight):
        return P.Conv2D(48, 3, pad_mode="pad", pad=1)(x, weight)

    def ours(x, weight):
        return ops.conv2d(x, weight, None)
    for mine, theirs in zip(*(ours_gradients(f, [x, weight], cotangent) for f in (ours, stock))):
        assert relative_error(mine, theirs) < 2e-6


def test_ascend_refuses_maps_wider_than_its_limit(monkeypatch):
    monkeypatch.setattr(device, "_target", "Ascend")
    with pytest.raises(ValueError, match="input width 4097 exceeds Ascend's 4096"):
        ops.conv2d(Tensor(draw(0, 1, 1, 1, 4097)), Tensor(draw(1, 1, 1, 3, 3)), None)


def exact_time_conv(x, weight, bias):
    """x (videos, frames, pixels, in), weight (out, in, 3, 1, 1)."""
    x = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    taps = sum(x[:, k:x.shape[1] - 2 + k] @ weight[:, :, k, 0, 0].T for k in range(3))
    return taps + bias


@pytest.mark.parametrize("videos, frames, pixels, channels, out", [(2, 3, 4, 3, 2), (1, 1, 2, 3, 20), (1, 2, 1, 3, 20)])
def test_temporal_conv(videos, frames, pixels, channels, out, same):
    """Frames of one video do not reach into the next."""
    def exact(x, weight, bias):
        return exact_time_conv(x.reshape(videos, frames, pixels, channels), weight, bias).reshape(-1, out)

    def ours(x, weight, bias):
        return ops.temporal_conv(x, weight, bias, videos, frames)
    same(ours, exact, [draw(0, videos * frames * pixels, channels), draw(1, out, channels, 3, 1, 1), draw(2, out)])


@both_targets
def test_time_conv_of_maps(target, same):
    """(videos * frames, C, H, W) through the map over time and back."""
    def exact(x, weight, bias):
        x = x.reshape(2, 3, 3, 8).transpose(0, 1, 3, 2)
        return exact_time_conv(x, weight, bias).transpose(0, 1, 3, 2).reshape(6, 5, 2, 4)

    def ours(x, weight, bias):
        return ops.from_time(ops.time_conv_nchw(ops.to_time(x, 3), weight, bias), 3, 2, 4)
    same(ours, exact, [draw(0, 6, 3, 2, 4), draw(1, 5, 3, 3, 1, 1), draw(2, 5)])


@both_targets
def test_upsample(target, same):
    same(ops.upsample_nchw, lambda x: x.repeat(2, 2).repeat(2, 3), [draw(0, 2, 3, 2, 4)])


def test_slices_of_a_convolution_compile_with_their_gradients(monkeypatch, relative_error):
    """Four frames one after the other."""
    monkeypatch.setattr(convolution, "IM2COL_BYTES", 0)
    arrays = [draw(0, 4 * 16, 3), draw(1, 2, 3, 3, 3), draw(2, 2)]

    def ours(x, weight, bias):
        return (ops.conv3x3(x, weight, bias, 4, 4, 4) ** 2).sum()

    @ms.jit
    def graph(x, weight, bias):
        return ms.grad(ours, (0, 1, 2))(x, weight, bias)

    def exact(x, weight, bias):
        return (exact_conv(x.reshape(4, 4, 4, 3).transpose(0, 3, 1, 2), weight, bias, 1) ** 2).sum()
    for mine, theirs in zip(graph(*map(Tensor, arrays)), numeric_gradients(exact, arrays, 1.0)):
        assert relative_error(mine, theirs) < 2e-5


@pytest.mark.usefixtures("cpu_afterwards")
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
