"""The video UNet against the original: outputs, every block, still-image frames, width 64; and its Ascend form."""
from collections import Counter

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.train import mind_ir_pb2
from support.goldens import unet_of

from sgm import ops
from sgm.config.model import UNetSpec
from sgm.models.unet import VideoUNet

FRAMES = 5


def inputs(golden):
    return [Tensor(golden[f"in/{name}"]) for name in ("x", "timesteps", "context", "y")]


@pytest.mark.parametrize("name, mode", [
    ("sv3d_p", "compiled"), ("sv3d_u", "pynative"), ("svd", "pynative"),
    pytest.param("sv3d_u", "compiled", marks=pytest.mark.slow), pytest.param("svd", "compiled", marks=pytest.mark.slow)])
def test_outputs(name, mode, golden, tiny_engine, agree):
    g, run = golden(f"unet_{name}"), tiny_engine(name).model.diffusion_model.construct
    if mode == "compiled":
        run = ms.jit(run)
    x, timesteps, context, y = inputs(g)
    video, mixed = (Tensor(g[f"in/image_only_indicator{which}"]) for which in ("", "_mixed"))
    agree(f"unet_{name} y", run(x, timesteps, context, y, FRAMES, video), g["out/y"])
    agree(f"unet_{name} y_mixed", run(x, timesteps, context, y, FRAMES, mixed), g["out/y_mixed"])
    # Every frame at the first one's noise level and with its context.
    first = [Tensor(np.repeat(tensor.asnumpy()[:1], len(x), 0)) for tensor in (timesteps, context)]
    agree(f"unet_{name} y_same_t_ctx", run(x, *first, y, FRAMES, video), g["out/y_same_t_ctx"])


def test_pynative_and_every_block(golden, tiny_engine, agree, norm_eps):
    g, unet = golden("unet_sv3d_p"), tiny_engine("sv3d_p").model.diffusion_model
    blocks = {f"input_blocks.{i}": block for i, block in enumerate(unet.input_blocks)}
    blocks["middle_block"] = unet.middle_block
    blocks.update({f"output_blocks.{i}": block for i, block in enumerate(unet.output_blocks)})
    assert {f"act/{name}" for name in blocks} == {key for key in g if key.startswith("act/")}
    seen = {}

    def keep(name):
        def hook(cell, given, result):
            seen[name] = result
        return hook

    hooks = [block.register_forward_hook(keep(name)) for name, block in blocks.items()]
    try:
        result = unet(*inputs(g), FRAMES)
    finally:
        for hook in hooks:
            hook.remove()
    agree("unet_sv3d_p y, pynative", result, g["out/y"])
    for name, (tokens, (videos, frames, height, width)) in seen.items():
        maps = tokens.asnumpy().reshape(videos * frames, height, width, -1).transpose(0, 3, 1, 2)
        agree("unet_sv3d_p act/*", maps, g[f"act/{name}"])
    # 11 residual blocks, over pixels and over time, and the output; in front of 7 transformers it is finer.
    assert norm_eps == {("group", 1e-5): 11 * 4 + 1, ("group", 1e-6): 7, ("layer", 1e-5): 7 * 5}


@pytest.mark.parametrize("name", [
    pytest.param("sv3d_p", marks=pytest.mark.slow), pytest.param("sv3d_u", marks=pytest.mark.slow), "svd"])
def test_width_64(name, golden, filled, agree):
    """Four levels with two blocks each, as in the released networks."""
    name = f"unet64_{name}_noweights"
    g = golden(name)
    unet = filled(VideoUNet(*unet_of(name)), "unet64.")
    agree(f"{name} y", unet(*inputs(g), FRAMES), g["out/y"])


def test_context_of_two_tokens_is_refused(golden, tiny_engine):
    """Cross-attention is taken to have one token; of more it would silently be wrong."""
    x, timesteps, context, y = inputs(golden("unet_sv3d_u"))
    two = Tensor(np.repeat(context.asnumpy(), 2, 1))
    with pytest.raises(ValueError, match=r"context: found shape \(10, 2, 64\), expected \(frames, 1, D\)"):
        tiny_engine("sv3d_u").model.diffusion_model(x, timesteps, two, y, FRAMES)


class FixedFrames(nn.Cell):
    """The network with its number of frames as part of the graph, not an input."""

    def __init__(self, unet, frames):
        super().__init__(auto_prefix=False)
        self.unet, self.frames = unet, frames

    def construct(self, x, timesteps, context, y):
        return self.unet(x, timesteps, context, y, self.frames)


@pytest.fixture
def ascend():
    ops.set_target("Ascend")
    yield
    ops.set_target("CPU")


@pytest.mark.parametrize("half", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ascend_form_can_be_exported_here(half, ascend, tmp_path):
    """The graph an NPU would run has native norms, GELU and convolutions, and flash attention in half precision."""
    spec = UNetSpec(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[1],
                    num_head_channels=16, context_dim=32)
    unet, kind = VideoUNet(spec, 64), np.float16 if half else np.float32
    for _, parameter in unet.parameters_and_names():
        parameter.set_dtype(ms.float16 if half else ms.float32)
        parameter.set_data(Tensor(np.zeros(parameter.shape, kind)))
    shapes = (2, 8, 16, 16), (2,), (2, 1, 32), (2, 64)
    x, timesteps, context, y = (Tensor(np.zeros(shape, np.float32)) for shape in shapes)
    context = context.astype(ms.float16 if half else ms.float32)
    ms.export(FixedFrames(unet, 2), x, timesteps, context, y, file_name=str(tmp_path / "unet"), file_format="MINDIR")
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString((tmp_path / "unet.mindir").read_bytes())
    kinds = Counter(node.op_type.rpartition("::")[2].partition(":")[0]
                    for graph in [model.graph, *model.functions] for node in graph.node)
    # 8 residual blocks of 4 norms and 2 convolutions; 4 transformers of 1 group and 5 layer norms; stem, down, up, out.
    assert (kinds["GroupNorm"], kinds["LayerNorm"], kinds["Conv2D"]) == (8 * 4 + 4 + 1, 4 * 5, 8 * 2 + 4)
    assert kinds["FlashAttentionScore"] == (3 if half else 0)       # where there are 256 pixels
    # What only a CPU is given: gathered patches, mirrored kernels.
    assert not kinds["Gather"] and not kinds["GatherV2"] and not kinds["ReverseV2"]
