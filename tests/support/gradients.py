"""Random arrays, and gradients in two ways: MindSpore's, and central differences in float64."""
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from sgm import ops


def draw(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def numeric_gradients(function, arrays, cotangent, step=1e-5):
    """Gradients of sum(cotangent * function(*arrays)) by central differences in float64."""
    arrays = [array.astype(np.float64) for array in arrays]
    gradients = [np.zeros(array.shape) for array in arrays]
    for array, gradient in zip(arrays, gradients):
        for index in np.ndindex(array.shape):
            center = array[index]
            sides = []
            for value in (center + step, center - step):
                array[index] = value
                sides.append((function(*arrays) * cotangent).sum())
            array[index] = center
            gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return gradients


def ours_gradients(function, arrays, cotangent):
    def weighted(*tensors):
        return (function(*tensors) * Tensor(cotangent)).sum()
    gradients = ms.grad(weighted, tuple(range(len(arrays))))(*map(Tensor, arrays))
    return gradients if isinstance(gradients, tuple) else (gradients,)


both_targets = pytest.mark.parametrize("target", ops.TARGETS, indirect=True)


def exact_softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)
