"""Muon: the momentum of each weight matrix, made orthogonal, is the direction of its step.

All directions of a matrix are then learned at one rate, where AdamW follows the few strongest. Its
authors found it to need fewer steps from random weights; it was not compared here.
Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025, arXiv 2502.16982.
"""
from mindspore import ops

MOMENTUM = 0.95
# of the quintic iteration that brings all singular values near 1 (to .7 ... 1.2), by its authors
STEPS, A, B, C = 5, 3.4445, -4.7750, 2.0315
# An orthogonal direction times this and the root of the longer side has the mean square of AdamW's:
# Liu et al. 2025, section 2.2. Learning rates and decay then mean the same for both.
SCALE = 0.2
SMALLEST = 32   # rows or columns; what is narrower is left to AdamW


def is_matrix(name, shape):
    """Return whether the parameter of that name and shape is one that Muon updates.

    They are the weights of linear layers and convolutions. Vectors and narrow layers are not, nor
    tables of embeddings and positions, whose rows learn one by one and which are not named weight.
    """
    return len(shape) > 1 and name.endswith("weight") and min(sides(shape)) >= SMALLEST


def sides(shape):
    """Return rows and columns of a weight as a matrix: one row for each of its first axis."""
    columns = 1
    for side in shape[1:]:
        columns *= side
    return shape[0], columns


def direction(gradient, momentum):
    """Return the step of a weight for a learning rate of 1, of the gradient's shape.

    momentum: the decayed sum of all gradients with this one, float32; the next value of it is
    expected (Nesterov's form).
    """
    rows, columns = sides(gradient.shape)
    matrix = ops.reshape(gradient + MOMENTUM * momentum, (rows, columns))
    scale = SCALE * max(rows, columns) ** 0.5
    return ops.reshape(scale * orthogonal(matrix, rows > columns), gradient.shape)


def orthogonal(matrix, tall):
    """Return the matrix (rows, columns) with all singular values near 1, its directions kept.

    It is the Newton-Schulz iteration, of products of matrices alone. tall: there are more rows
    than columns; the smaller of the two products is formed.
    """
    x = matrix * ops.rsqrt(ops.ReduceSum()(matrix * matrix, ()) + 1e-14)
    inner, plain = ops.MatMul(tall, not tall), ops.MatMul()
    for _ in range(STEPS):
        square = inner(x, x)
        mixed = B * square + C * plain(square, square)
        x = A * x + (plain(x, mixed) if tall else plain(mixed, x))
    return x
