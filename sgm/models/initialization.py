"""Initial weights of a network, drawn by numpy: the same seed gives the same weights everywhere."""
import zlib

import numpy as np
from mindspore import Tensor

# The last layer of every residual branch starts at zero, so that a block starts as the identity, as
# in the original; the autoencoder's too (`conv2`).
_ZERO = ("out_layers.3", "proj_out", "diffusion_model.out.2", "lora_B", "conv2")


def initial_weight(name, shape, seed):
    """Return the initial value of a parameter by its published name: float32 of `shape`.

    Weights of linear layers and convolutions are uniform in +-1/sqrt(fan in) (PyTorch's default),
    biases 0, norms 1 and 0, mixing factors 0.5; every parameter has a random stream of its own.
    """
    rng = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    owner, _, leaf = name.rpartition(".")
    if leaf == "mix_factor":
        return np.full(shape, 0.5, np.float32)
    if leaf in ("class_embedding", "positional_embedding", "proj"):
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
    if any(owner.endswith(zero) for zero in _ZERO):
        return np.zeros(shape, np.float32)
    if len(shape) > 1:
        bound = np.prod(shape[1:]) ** -0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    if leaf == "weight":
        return np.ones(shape, np.float32)
    return np.zeros(shape, np.float32)


def initialize(cell, seed):
    """Fill every parameter of `cell` (whose names are the published ones)."""
    for name, parameter in cell.parameters_dict().items():
        parameter.set_data(Tensor(initial_weight(name, parameter.shape, seed)))
