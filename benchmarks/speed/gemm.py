"""The product of two matrices twice: what share of a processor's speed other rows can reach."""
from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """What both sides compute: a product of two square float32 matrices."""
    size: int


def draw_weights(case, path):
    """Return {}, the tasks of a `sides.Side` that has none; there are no weights."""
    path.touch()
    return {}


def _matrices(case):
    random = np.random.RandomState(0)
    return [random.standard_normal((case.size, case.size)).astype(np.float32) for _ in range(2)]


def ours(case, weights):
    """Return {"product": function} on MindSpore."""
    from mindspore import Tensor

    from sgm import ops
    from sgm.ops.tokens import matmul

    ops.set_device("CPU")
    first, second = map(Tensor, _matrices(case))

    def product(a, b):
        return matmul(a, b)

    graph = ops.compiled(product)
    return {"product": lambda: ops.fetch(graph(first, second))}


def theirs(case, weights):
    """Return the same on PyTorch."""
    import torch

    first, second = map(torch.from_numpy, _matrices(case))
    return {"product": lambda: torch.mm(first, second).numpy()}
