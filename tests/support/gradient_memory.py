"""How much memory a gradient's graph needs at each point, if its primitives run in the order in which the trace lists them.

A device's own back end may order or fuse them otherwise; weights are not counted, their gradients are.
"""
from itertools import accumulate
from typing import NamedTuple

import mindspore as ms
from mindspore import ParameterTuple, nn
from mindspore import ops as ms_ops
from mindspore.nn.utils import no_init_parameters

from sgm.audit.graph import VIEWS, Type, constant_of, lazily, type_of
from sgm.diffusion.engine import Engine
from sgm.models.architecture import unet_layers

# Nodes whose result is the memory of their first input.
_SAME = VIEWS | {"Depend", "Load", "StopGradient"}


class Memory(NamedTuple):
    """Bytes of what the forward pass leaves for the backward pass, and the most that lives at once."""
    kept: int
    peak: int


class _OnGrid(nn.Cell):
    """A block of the UNet on the frames of one clip."""

    def __init__(self, block, grid):
        super().__init__(auto_prefix=False)
        self.block, self.grid = block, grid

    def construct(self, h, emb, prepared, image_only):
        return self.block(h, emb, prepared, image_only, self.grid)[0]


class _Gradient(nn.Cell):
    """The gradients of a cell's inputs and weights, from that of its output."""

    def __init__(self, cell):
        super().__init__(auto_prefix=False)
        self.cell, self.weights = cell, ParameterTuple(list(cell.trainable_params()))
        self.gradient = ms_ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)

    def construct(self, *inputs):
        return self.gradient(self.cell, self.weights)(*inputs)


def gradient_of_block(spec, key, dtype):
    """Return what `sgm.audit.graph.trace` takes for the gradient of one block of the UNet.

    key: the published one of an input block that starts with a residual layer ("input_blocks.8");
    dtype: of the computation ("float16"). Returns make(), which returns a Cell that holds the Block
    as `cell.block`, and the Types of its arguments, the gradient of the block's output last.
    """
    layer = next(layer for layer in unet_layers(spec.unet) if layer.key == f"{key}.0")
    height, width = (side // spec.vae_factor >> layer.level for side in (spec.height, spec.width))
    with no_init_parameters():
        unet = Engine(spec).model.diffusion_model
    block = unet.input_blocks[int(key.removeprefix("input_blocks."))]
    frames, rows = spec.num_frames, spec.num_frames * height * width
    context = 3 * sum(transformer.width for transformer in unet.transformers)
    shapes = ((rows, layer.width_in), (frames, 4 * spec.unet.model_channels), (frames, context))
    arguments = [*(Type(dtype, shape) for shape in shapes), Type("float32", (frames,)),
                 Type(dtype, (rows, layer.width_out))]

    def make():
        return _Gradient(_OnGrid(lazily(block, getattr(ms, dtype)), (1, frames, height, width)))
    return make, arguments


def of_gradient(proto, arguments):
    """The Memory of a graph as `traced` gives it. The last of its arguments is the gradient of the output: with the first
    primitive that depends on it the backward pass begins."""
    held, size, made, last = {}, {}, {}, {}         # held: for each value its buffer, or a tuple of them
    backward, begins = {proto.parameters[arguments - 1].name}, None
    numbers = {item.key: constant_of(item.value) for item in proto.const_vals}
    for time, node in enumerate(proto.node):
        names = [edge.name for edge in node.input]
        inputs = [held.get(name) for name in names]
        if not backward.isdisjoint(names):
            backward.add(node.name)
        if node.op_type == "MakeTuple":
            held[node.name] = tuple(inputs)
        elif node.op_type in _SAME:
            held[node.name] = inputs[0]
        elif node.op_type == "TupleGetItem" and isinstance(inputs[0], tuple):
            held[node.name] = inputs[0][numbers[names[1]]]
        elif node.op_type != "UpdateState":
            if begins is None and node.name in backward:
                begins = time
            last.update(dict.fromkeys(_buffers(inputs), time))
            result = type_of(node.output_type)      # None: of several results, each of which is taken out for itself
            held[node.name], size[node.name], made[node.name] = node.name, result.bytes if result else 0, time
    last.update(dict.fromkeys(_buffers([held.get(output.name) for output in proto.outputs]), len(proto.node)))
    change = [0] * (len(proto.node) + 2)
    for name, count in size.items():
        change[made[name]] += count
        change[last.get(name, made[name]) + 1] -= count
    lives = list(accumulate(change))
    return Memory(lives[begins - 1], max(lives))


def _buffers(values):
    for value in values:
        if isinstance(value, tuple):
            yield from _buffers(value)
        elif value is not None:
            yield value
