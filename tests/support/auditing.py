"""What the tests of `sgm.audit` share: a small model, graphs of functions, and that nothing is found in a case."""
from mindspore import nn

from sgm.audit import ascend_rules, diffusion_graphs
from sgm.audit.graph import Type, trace
from sgm.config.model import ClipSpec, ConditionSpec, ModelSpec, UNetSpec, VaeSpec

# Two levels, attention on both; 256 tokens, so that half precision takes flash attention.
SMALL = ModelSpec(
    name="small", num_frames=2, height=32, width=32,
    unet=UNetSpec(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[1],
                  num_head_channels=16, context_dim=32),
    vae=VaeSpec(ch=32, ch_mult=[1, 2], num_res_blocks=1),
    clip=ClipSpec(image_size=28, width=32, layers=1, head_width=16, embed_dim=32), condition=ConditionSpec(scalar_dim=32))


class Of(nn.Cell):
    """A function as a Cell."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, *given):
        return self.function(*given)


def graph_of(function, *arguments):
    """The graph of a function of tensors, each given as (dtype, *shape)."""
    return trace(lambda: Of(function), [Type(dtype, shape) for dtype, *shape in arguments])


def examined(case):
    """`networks.audit` of a case in which nothing is found."""
    row = diffusion_graphs.audit(case)
    assert row["violations"] == {kind: [] for kind in ascend_rules.KINDS}
    assert row["flops"] > 0 and row["bytes"] > row["weight_bytes"] > 0
    return row
