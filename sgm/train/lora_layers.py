"""Low-rank adaptation while training: attention and feed-forward layers get a trained product.

Their own weights are frozen.
"""
from mindspore import Tensor, nn

from sgm import ops
from sgm.checkpoints.lora_fusion import DOWN, UP
from sgm.models.attention import TransformerBlock
from sgm.models.blocks import Linear
from sgm.models.initialization import initial_weight


class AdaptedLinear(nn.Cell):
    """y = x W^T + b + alpha / rank (x A^T) B^T of a frozen layer.

    The gradient of the large product is never needed.
    """

    def __init__(self, layer, rank, alpha):
        super().__init__()
        out, into = layer.weight.shape
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_A, self.lora_B = Linear(into, rank, bias=False), Linear(rank, out, bias=False)
        self.scale = alpha / rank

    def construct(self, x):
        """Return the layer's output of rows x (N, in)."""
        return ops.linear(x, self.weight, self.bias) + self.lora_B(self.lora_A(x)) * self.scale


class AdaptedGeglu(nn.Cell):
    """`sgm.models.attention.GegluProjection` with an adapted layer."""

    def __init__(self, projection, rank, alpha):
        super().__init__()
        self.proj = AdaptedLinear(projection.proj, rank, alpha)

    def construct(self, x):
        """Return the gated projection of rows x (N, in)."""
        both = self.proj(x)
        inner = both.shape[1] // 2
        return both[:, :inner] * ops.gelu(both[:, inner:])


def attach(engine, rank, alpha, seed):
    """Adapt the attention and feed-forward layers of an Engine's UNet; return the new Parameters.

    Its output does not change: B starts at zero. Queries and keys of the attention to one token
    have no effect and stay as they are.
    """
    for block in [
            cell for _, cell in engine.model.cells_and_names()
            if isinstance(cell, TransformerBlock)
    ]:
        for attention, names in (block.attn1, ("to_q", "to_k", "to_v")), (block.attn2, ("to_v",)):
            for name in names:
                setattr(attention, name, AdaptedLinear(getattr(attention, name), rank, alpha))
            attention.to_out[0] = AdaptedLinear(attention.to_out[0], rank, alpha)
        for forward in (block.ff, block.ff_in) if block.over_time else (block.ff,):
            forward.net[0] = AdaptedGeglu(forward.net[0], rank, alpha)
            forward.net[2] = AdaptedLinear(forward.net[2], rank, alpha)
    added = []
    for name, parameter in engine.parameters_and_names():
        parameter.name = name
        if name.endswith((DOWN, UP)):
            parameter.set_data(Tensor(initial_weight(name, parameter.shape, seed)))
            added.append(parameter)
    return added
