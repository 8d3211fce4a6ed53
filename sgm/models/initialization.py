"""Initial weights of a network, drawn by numpy: the same seed gives the same weights everywhere."""
import re
import zlib

import numpy as np
from mindspore import Tensor

# The last layer of every residual branch starts at zero, so that a block starts as the identity, as
# in the original; so do corrections of cameras.
_ZERO = ("out_layers.3", "proj_out", "diffusion_model.out.2", "lora_B", "zero_conv", "cameras",
         "elevation_head.mlp.2")
# So does that of the autoencoder's, unlike the original's: it learns quicker.
_VAE_BRANCH = re.compile(r"(.*\.)?(encoder|decoder)\.(down|mid|up)\..*\.?conv2")
# Parameters that are tokens or positions, and CLIP's projection.
_TOKENS = ("class_embedding", "positional_embedding", "proj", "cls_token", "position_embeddings",
           "register_tokens", "embeddings")
# Of the feed-forward networks. With the usual values the residual branches, which are larger and
# nearly the same for every token, leave .4 % of the variance of the planes' tokens between them,
# and every plane begins as one tile, repeated; with these it is two thirds.
_POSITIONS = "pos_embed"
# Layers between ReLUs that keep the size of what passes (He et al. 2015, arXiv 1502.01852): with
# the usual weights the density of a feed-forward network begins nearly the same everywhere.
_RELU = "synthesizer.decoder.net."


def initial_weight(name, shape, seed):
    """Return the initial value of a parameter by its published name: float32 of `shape`.

    Weights of linear layers and convolutions are uniform in +-1/sqrt(fan in) (PyTorch's default;
    sqrt(6) times as much in the decoder of points of a feed-forward network),
    biases 0, norms 1 and 0, mixing factors 0.5; every parameter has a random stream of its own.
    """
    rng = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    owner, _, leaf = name.rpartition(".")
    if leaf == "mix_factor":
        return np.full(shape, 0.5, np.float32)
    if leaf in ("lambda1", "gamma"):            # of layers that scale their results, as in DINOv2
        return np.ones(shape, np.float32)
    if leaf == _POSITIONS:
        return (0.5 * rng.standard_normal(shape)).astype(np.float32)
    if leaf in _TOKENS:
        return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
    if any(owner.endswith(zero) for zero in _ZERO) or _VAE_BRANCH.fullmatch(owner):
        return np.zeros(shape, np.float32)
    if len(shape) > 1:
        bound = np.prod(shape[1:]) ** -0.5
        if _RELU in name:
            bound *= 6 ** 0.5
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    if leaf == "weight":
        return np.ones(shape, np.float32)
    return np.zeros(shape, np.float32)


def initialize(cell, seed):
    """Fill every parameter of `cell` (whose names are the published ones)."""
    for name, parameter in cell.parameters_dict().items():
        parameter.set_data(Tensor(initial_weight(name, parameter.shape, seed)))
