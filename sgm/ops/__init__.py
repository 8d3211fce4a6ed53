"""Operators, each in a form for a CPU and one for an Ascend NPU: only here do the two differ.

Networks are written in *token layout*: an activation is a 2-D tensor ``(rows, channels)`` whose
rows run over frames, then image rows, then columns. Linear layers, 1x1 convolutions, skip
concatenation and temporal convolution then need no transposition. The VAE, whose maps are large and
whose layers are all convolutions, stays in NCHW.

Every function has a form for each target. ``set_target("Ascend")`` makes graphs of the Ascend form
on any machine, so that they can be exported and audited without a device; callers never ask which
target is in force.
"""
from sgm.ops.activations import geglu, gelu, silu, softmax
from sgm.ops.attend import attention, frame_index, merge_heads, split_heads, timestep_embedding
from sgm.ops.convolution import (
    conv2d,
    conv3x3,
    from_time,
    temporal_conv,
    time_conv_nchw,
    to_time,
    upsample_nchw,
)
from sgm.ops.device import (
    TARGETS,
    compiled,
    fetch,
    on_ascend,
    release,
    set_device,
    set_jit,
    set_target,
    target,
    wait,
)
from sgm.ops.norms import group_norm, group_norm_nchw, group_norm_of, layer_norm
from sgm.ops.tokens import depend, in_slices, linear, mix, permute_rows, repeat_rows

__all__ = [
    "TARGETS", "attention", "compiled", "conv2d", "conv3x3", "depend", "fetch", "frame_index",
    "from_time", "geglu", "gelu", "group_norm", "group_norm_nchw", "group_norm_of", "in_slices",
    "layer_norm", "linear", "merge_heads", "mix", "on_ascend", "permute_rows", "release",
    "repeat_rows", "set_device", "set_jit", "set_target", "silu", "softmax", "split_heads",
    "target", "temporal_conv", "time_conv_nchw", "timestep_embedding", "to_time",
    "upsample_nchw", "wait",
]
