#!/usr/bin/env python3
"""Makes sgm/audit/golden/operators.npz: what the operators of `sgm.audit.operator_cases` should give, by numpy in float64.

Each entry is a closed form of its own, not the code that it judges; gradients are central differences of it.
Run it after a change here: python tests/support/golden_operators.py
"""
import math
import zlib

import numpy as np

from sgm.audit.golden_weights import GOLDEN

FILE = GOLDEN / "operators.npz"
GRID = (2, 3, 2, 4)             # videos, frames, height, width, as in `sgm.audit.operator_cases`
_erf = np.vectorize(math.erf)


def gelu(x):
    return x * 0.5 * (1 + _erf(x / np.sqrt(2)))


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def linear(x, weight, bias):
    return x @ weight.T + bias


def geglu(x, weight, bias):
    value, gate = np.split(linear(x, weight, bias), 2, axis=1)
    return value * gelu(gate)


def mix(first, second, alpha):
    alpha = alpha.repeat(len(first) // len(alpha), 0)
    return alpha * first + (1 - alpha) * second


def normalize(x, axes, eps):
    x = x - x.mean(axes, keepdims=True)
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + eps)


def layer_norm(x, weight, bias):
    return normalize(x, 1, 1e-5) * weight + bias


def group_norm(x, weight, bias):
    return normalize(x.reshape(2, -1, 4, x.shape[1] // 4), (1, 3), 1e-5).reshape(x.shape) * weight + bias


def group_norm_nchw(x, weight, bias):
    x = normalize(x.reshape(len(x), 4, -1), 2, 1e-6).reshape(x.shape)
    return x * weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)


def conv2d(x, weight, bias, stride=1, pad=(1, 1, 1, 1)):
    """Cross-correlation, NCHW; pad = top, bottom, left, right."""
    x = np.pad(x, ((0, 0), (0, 0), pad[:2], pad[2:]))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias.reshape(-1, 1, 1)


def conv3x3(stride=1, upsample=False):
    """Of tokens, 2 frames of 4 x 6."""
    def function(x, weight, bias):
        maps = x.reshape(2, 4, 6, -1).transpose(0, 3, 1, 2)
        if upsample:
            maps = maps.repeat(2, 2).repeat(2, 3)
        return conv2d(maps, weight, bias, stride).transpose(0, 2, 3, 1).reshape(-1, len(weight))
    return function


def over_frames(x, weight, bias):
    """x (videos, frames, pixels, in), weight (out, in, 3, 1, 1)."""
    x = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    return sum(x[:, k:x.shape[1] - 2 + k] @ weight[:, :, k, 0, 0].T for k in range(3)) + bias


def temporal_conv(x, weight, bias):
    return over_frames(x.reshape(2, 3, -1, x.shape[1]), weight, bias).reshape(len(x), -1)


def time_conv_nchw(x, weight, bias):
    videos = x.reshape(-1, 3, x.shape[1], 8).transpose(0, 1, 3, 2)
    return over_frames(videos, weight, bias).transpose(0, 1, 3, 2).reshape(len(x), -1, 2, 4)


def attention(q, k, v):
    return softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])) @ v


def heads(over_time):
    """x (rows, 2 heads of d), weighed in (frames, 2, pixels, d), or (pixels, 2, frames, d) over time."""
    def function(x, weight):
        videos, frames, height, width = GRID
        pixels, d = height * width, x.shape[1] // 2
        if over_time:
            weight = weight.reshape(videos, pixels, 2, frames, d).transpose(0, 3, 1, 2, 4)
        else:
            weight = weight.reshape(videos, frames, 2, pixels, d).transpose(0, 1, 3, 2, 4)
        return x * weight.reshape(x.shape)
    return function


def permute_rows(x, weight):
    return x.reshape(2, 3, 4, -1).transpose(0, 2, 1, 3).reshape(x.shape) * weight


def timestep_embedding(values):
    angles = values[:, None] * 10000.0 ** (-np.arange(8) / 8)
    return np.concatenate([np.cos(angles), np.sin(angles)], 1)


def preconditioning(sigma):
    """EDM's v-prediction with sigma_data 1: c_skip, c_out, c_in, c_noise."""
    return np.stack([1 / (sigma ** 2 + 1), -sigma / np.sqrt(sigma ** 2 + 1), 1 / np.sqrt(sigma ** 2 + 1), np.log(sigma) / 4])


def adamw(x, weight):
    """torch.optim.AdamW on mean (x w^T)^2: lr 0.01, decay 0.1, gradients clipped to norm 0.5; average of factor 0.9."""
    m = v = 0
    average = weight
    for step in (1, 2):
        y = x @ weight.T
        gradient = 2 * y.T @ x / y.size
        norm = np.sqrt((gradient ** 2).sum())
        clipped = gradient * min(1, 0.5 / (norm + 1e-6))
        m, v = 0.9 * m + 0.1 * clipped, 0.999 * v + 0.001 * clipped ** 2
        root = np.sqrt(v / (1 - 0.999 ** step)) + 1e-8
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * m / (1 - 0.9 ** step) / root
        average = average + 0.1 * (weight - average)
    return np.concatenate([weight.ravel(), average.ravel(), [(y ** 2).mean(), norm]])


WEIGHTS = {"conv": ((5, 4, 3, 3), (5,)), "time": ((5, 4, 3, 1, 1), (5,))}
# Name -> closed form, shapes of the inputs.
FORMS = {
    "linear": (linear, [(6, 8), (5, 8), (5,)]),
    "geglu": (geglu, [(12, 4), (10, 4), (10,)]),
    "geglu, few rows": (geglu, [(3, 8), (10, 8), (10,)]),
    "gelu": (gelu, [(8, 16)]),
    "silu": (silu, [(8, 16)]),
    "softmax": (softmax, [(2, 5, 7)]),
    "layer_norm": (layer_norm, [(6, 16), (16,), (16,)]),
    "group_norm": (group_norm, [(12, 16), (16,), (16,)]),
    "group_norm_nchw": (group_norm_nchw, [(2, 8, 2, 3), (8,), (8,)]),
    "conv3x3": (conv3x3(), [(48, 4), *WEIGHTS["conv"]]),
    "conv3x3, stride 2": (conv3x3(stride=2), [(48, 4), *WEIGHTS["conv"]]),
    "conv3x3, upsampled": (conv3x3(upsample=True), [(48, 4), *WEIGHTS["conv"]]),
    "conv2d, 3 x 3": (conv2d, [(2, 4, 4, 6), *WEIGHTS["conv"]]),
    "conv2d, 1 x 1": (lambda x, w, b: conv2d(x, w, b, pad=(0,) * 4), [(2, 4, 4, 6), (5, 4, 1, 1), (5,)]),
    "conv2d, stride 2": (lambda x, w, b: conv2d(x, w, b, 2, (0, 1, 0, 1)), [(2, 4, 4, 6), *WEIGHTS["conv"]]),
    "temporal_conv": (temporal_conv, [(24, 4), *WEIGHTS["time"]]),
    "time_conv_nchw": (time_conv_nchw, [(6, 4, 2, 4), *WEIGHTS["time"]]),
    "upsample_nchw": (lambda x: x.repeat(2, 2).repeat(2, 3), [(2, 4, 2, 3)]),
    "attention": (attention, [(2, 3, 7, 4)] * 3),
    "attention, 256 tokens": (attention, [(1, 2, 256, 16)] * 3),
    "heads over pixels": (heads(False), [(48, 6), (6, 2, 8, 3)]),
    "heads over time": (heads(True), [(48, 6), (16, 2, 3, 3)]),
    "permute_rows": (permute_rows, [(24, 3), (24, 3)]),
    "repeat_rows": (lambda x: x.repeat(4, 0), [(3, 5)]),
    "mix": (mix, [(12, 5), (12, 5), (3, 5)]),
    "timestep_embedding": (timestep_embedding, [(6,)]),
    "frame_index": (lambda x: np.array([0, 1, 2] * 2) + x, [(6,)]),
    "preconditioning": (lambda x: preconditioning(np.exp(x)), [(6,)]),
    "guidance": (lambda u, c, scale: u + scale * (c - u), [(3, 4, 2, 2), (3, 4, 2, 2), (3, 1, 1, 1)]),
    "adamw": (adamw, [(7, 4), (5, 4)]),
}
# The stream that an operator's arrays are drawn from, where that is not its name: renaming one must not change them.
STREAMS = {"repeat_rows": "spread"}
WITHOUT_GRADIENTS = {"attention, 256 tokens", "timestep_embedding", "frame_index", "preconditioning", "guidance", "adamw"}


def draw(seed, shape):
    """Standard normal, rounded so that float16 holds it, and half of bfloat16's digits do."""
    values = np.random.RandomState(zlib.crc32(seed.encode())).standard_normal(shape)
    return (np.round(values * 32) / 32).astype(np.float32)


def gradients(function, arrays, cotangent, step=1e-5):
    """Of sum(cotangent * function(*arrays)), by central differences."""
    found = [np.zeros(array.shape) for array in arrays]
    for array, gradient in zip(arrays, found):
        for index in np.ndindex(array.shape):
            center, sides = array[index], []
            for value in (center + step, center - step):
                array[index] = value
                sides.append((function(*arrays) * cotangent).sum())
            array[index] = center
            gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return found


def compute():
    """{"name/in/0", "name/out", "name/cotangent", "name/gradient/0": float32 array}."""
    arrays = {}
    for name, (function, shapes) in FORMS.items():
        stream = STREAMS.get(name, name)
        inputs = [draw(f"{stream}/{i}", shape) for i, shape in enumerate(shapes)]
        if name == "preconditioning":
            inputs = [np.exp(inputs[0])]
            function = preconditioning
        exact = [array.astype(np.float64) for array in inputs]
        out = function(*exact)
        arrays.update({f"{name}/in/{i}": array for i, array in enumerate(inputs)})
        arrays[f"{name}/out"] = out.astype(np.float32)
        if name not in WITHOUT_GRADIENTS:
            cotangent = draw(f"{stream}/cotangent", out.shape)
            arrays[f"{name}/cotangent"] = cotangent
            for i, gradient in enumerate(gradients(function, exact, cotangent)):
                arrays[f"{name}/gradient/{i}"] = gradient.astype(np.float32)
    return arrays


if __name__ == "__main__":
    np.savez_compressed(FILE, **compute())
    print(f"{FILE}: {FILE.stat().st_size / 1e3:.0f} kB")
