"""Resampling as a matrix for each direction of an image or of a position embedding. numpy only.

The rules differ in the kernel, in whether it widens when an image shrinks, and in where the samples
lie; networks take the rule of the code that their weights were trained with.
"""
import numpy as np


def cubic_kernel(x, a):
    """Return the cubic convolution kernel (Keys 1981) at distances `x`, with the parameter `a`."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def triangle_kernel(x):
    """Return the kernel of linear interpolation at distances `x`."""
    return np.maximum(1 - np.abs(x), 0)


def bicubic(positions, size_in):
    """Return bicubic interpolation (a = -0.75) at `positions` as a matrix, edges repeated."""
    matrix = np.zeros((len(positions), size_in))
    for tap in range(-1, 3):
        index = np.floor(positions).astype(int) + tap
        np.add.at(matrix, (np.arange(len(positions)), index.clip(0, size_in - 1)),
                  cubic_kernel(positions - index, -0.75))
    return matrix


def antialiased(size_in, size_out, kernel, reach):
    """Return resampling with a kernel that widens where an image shrinks, as a matrix.

    kernel: of distances in pixels of the smaller side; reach: where it ends. Weights beyond the
    edges are left out, and the others make up for them.
    """
    scale = size_in / size_out
    centers = (np.arange(size_out) + 0.5) * scale
    wide = max(scale, 1.0)
    distance = (np.arange(size_in) + 0.5 - centers[:, None]) / wide
    # taps are whole pixels between the rounded ends of the kernel
    first = np.maximum((centers - reach * wide + 0.5).astype(int), 0)[:, None]
    last = np.minimum((centers + reach * wide + 0.5).astype(int), size_in)[:, None]
    index = np.arange(size_in)
    matrix = np.where((index >= first) & (index < last), kernel(distance), 0.0)
    return matrix / matrix.sum(1, keepdims=True)


def antialiased_bicubic(size_in, size_out):
    """Return `antialiased` resampling with the cubic kernel of a = -0.5."""
    return antialiased(size_in, size_out, lambda x: cubic_kernel(x, -0.5), 2)


def antialiased_bilinear(size_in, size_out):
    """Return `antialiased` resampling with the triangle."""
    return antialiased(size_in, size_out, triangle_kernel, 1)


def aligned_bicubic(size_in, size_out):
    """Return bicubic interpolation (a = -0.75) with aligned corners as a matrix."""
    return bicubic(np.arange(size_out) * ((size_in - 1) / (size_out - 1)), size_in)
