"""The graphs of sampling and training in their Ascend form: nothing is found, and they cost what they should."""
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from mindspore import Tensor
from support.auditing import SMALL, examined
from support.gradient_memory import gradient_of_block

from sgm.audit import ascend_rules, diffusion_graphs, reference_flops
from sgm.audit.graph import trace
from sgm.diffusion import engine as engine_module
from sgm.diffusion.engine import Engine


@cache
def all_cases():
    """{name: case} of the small model, with either decoder; each worker makes them while it collects the tests."""
    return {case.name: case for spec in (SMALL, replace(SMALL, vae=replace(SMALL.vae, decoder="image")))
            for case in diffusion_graphs.graphs(spec)}


def small_cases(names):
    """The cases whose names start with one of `names`."""
    slow = "UNet step, float16", "training step, autoencoder"
    return [pytest.param(case, id=name, marks=pytest.mark.slow if "float32" in name or name in slow else ())
            for name, case in all_cases().items() if name.startswith(names)]


@pytest.mark.parametrize("case", small_cases(("UNet", "CLIP", "VAE")))
def test_graphs_of_sampling_have_no_violations(case):
    """They cost what the original does, except for what we compute once instead of for every pixel and step."""
    row = examined(case)
    assert row["exceptions"] == {}
    if row["reference_flops"] is not None and not case.name.startswith("UNet"):
        assert row["flops"] == row["reference_flops"]
    if case.name.startswith("UNet step"):
        assert 0.9 < row["flops"] / row["reference_flops"] < 1
        assert row["host_bytes"] == 4 + 4 * SMALL.num_frames    # the noise level and the guidance of each frame
        half = "float32" not in case.name
        assert row["primitives"].get("FlashAttentionScore", 0) == 3 * half      # where there are 256 tokens
        weights = sum(parameter.size for parameter in Engine(SMALL).model.get_parameters())
        assert (row["weight_bytes"] <= 2 * weights) == half


@pytest.mark.parametrize("case", small_cases("training step, autoencoder"))
def test_training_has_no_violations(case):
    row = examined(case)
    assert {"Conv2DBackpropInput", "Conv2DBackpropFilter", "GroupNormGrad", "SiLUGrad"} <= set(row["exceptions"])
    assert 0.9 < row["flops"] / row["reference_flops"] < 1      # the first layers need no gradient of their input
    assert row["host_bytes"] == 4 * (8 + 3 * 32 ** 2 + 4 * 16 ** 2 + 2)     # rates, image, noise; loss and norm


@pytest.mark.parametrize("dtype, again", [
    pytest.param("float16", False, id="float16"),
    pytest.param("bfloat16", True, id="bfloat16, computed again"),
    pytest.param("float16", True, id="float16, computed again", marks=pytest.mark.slow),
    pytest.param("bfloat16", False, id="bfloat16", marks=pytest.mark.slow)])
def test_gradients_in_half_precision_have_no_violations(dtype, again):
    """Of a block over space and time, also if its backward pass computes it again."""
    make, arguments = gradient_of_block(SMALL, "input_blocks.1", dtype)

    def prepared():
        gradient = make()
        if again:
            gradient.cell.block.recompute()
        return gradient

    graph = trace(prepared, arguments)
    found = ascend_rules.examine(graph)
    assert found.empty, found.violations
    counted = Counter(node.op for node in graph.computing)
    assert counted["FlashAttentionScore"] == 1 + again and counted["FlashAttentionScoreGrad"] == 1
    assert {"Unstack", "SplitWithSize", "SumExt"} <= set(counted)


@pytest.mark.slow
@pytest.mark.parametrize("case", small_cases(("training step, UNet", "training step, LoRA")))
def test_training_the_unet_has_no_violations(case):
    """Frozen weights take no gradients. What the optimizer keeps is float32: master weights, two moments, an average and a
    sum of gradients."""
    row, half, lora = examined(case), "float32" not in case.name, "LoRA" in case.name
    assert (0.6 if lora else 0.9) < row["flops"] / row["reference_flops"] < (0.9 if lora else 1)
    assert {"AssignAdd", "Adam"} <= set(row["primitives"])
    assert all(row["primitives"].get(name, 0) == 3 * half for name in ("FlashAttentionScore", "FlashAttentionScoreGrad"))
    if not lora:
        weights = sum(parameter.size for parameter in Engine(SMALL).model.get_parameters())
        assert row["weight_bytes"] == weights * ((2 if half else 0) + 4 * 5)


def test_the_arguments_are_those_of_a_run(golden, tiny_engine, monkeypatch):
    """What the Engine gives its compiled step, and that the noise level is all it uploads for it."""
    g, engine, seen, uploads = golden("sample_sv3d_p"), tiny_engine("sv3d_p"), [], []
    sides = [{key: g[f"in/{side}/{key}"] for key in ("crossattn", "concat", "vector")} for side in ("c", "uc")]

    def record(*given):
        seen.extend(given)
        return given[0]

    monkeypatch.setitem(engine._graphs, ("pair", 5), record)
    denoise = engine.denoiser(*sides, np.full(5, 2.0))

    def upload(array):
        uploads.append(array.nbytes)
        return Tensor(array)

    monkeypatch.setattr(engine_module, "Tensor", upload)
    denoise(Tensor(g["trace/x.0"]), 1.0)
    spec = replace(engine.spec, num_frames=5, height=8 * g["trace/x.0"].shape[2], width=8 * g["trace/x.0"].shape[3])
    case = next(diffusion_graphs.denoising(spec, "float32"))
    assert [tuple(tensor.shape) for tensor in seen] == [argument.shape for argument in case.arguments.values()]
    assert uploads == [case.arguments["sigma"].bytes]


@pytest.mark.parity
@pytest.mark.parametrize("size, frames, height, width", [("SMALL", 5, 16, 24), ("FULL", 14, 72, 128), ("FULL", 21, 72, 72)])
def test_the_references_operations(size, frames, height, width):
    """Against PyTorch's counter of diffusers' network, at full size too, which embeds time per video and not per frame."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -r requirements-dev.txt")
    import twins
    from torch.utils.flop_counter import FlopCounterMode

    spec = replace(getattr(twins, size), num_frames=frames)
    for videos in (1, 2):
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            network = twins._their_unet(spec).to("meta")
            network(torch.empty(videos, frames, 8, height, width), torch.empty(videos),
                    torch.empty(videos, 1, spec.unet.context_dim), torch.empty(videos, len(spec.vector_widths)))
        expected = reference_flops.unet(spec, height, width, videos * frames)
        assert counter.get_total_flops() == pytest.approx(expected, rel=2e-4)
