"""The same network twice: ours on MindSpore, and that of diffusers or transformers on PyTorch.

Both have their weights from one file. A framework is imported only by the function that builds its
side: a process that builds one side holds one framework.
"""
import json
import os
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgm.audit.golden_weights import init_weight, rand, uniform
from sgm.checkpoints.diffusers.names import places, to_place
from sgm.config.model import ClipSpec, ConditionSpec, ModelSpec, UNetSpec, VaeSpec

# svd: its vector condition is one per video, as diffusers wants it. The UNets of sv3d_u and sv3d_p
# have the same layers.
FULL = ModelSpec()
SMALL = replace(
    FULL, name="small",
    unet=UNetSpec(model_channels=64, channel_mult=[1, 2, 2], attention_resolutions=[2, 1],
                  num_head_channels=32, context_dim=48),
    vae=VaeSpec(ch=32, ch_mult=[1, 2, 2]),
    clip=ClipSpec(image_size=56, patch_size=14, width=96, layers=3, head_width=24, embed_dim=48),
    condition=ConditionSpec(scalar_dim=32))
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32).reshape(3, 1, 1)
VIT_MEAN, VIT_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32).reshape(3, 1, 1)


class Case(NamedTuple):
    """What both sides compute."""
    network: str                # "unet", "vae" or "clip"
    spec: ModelSpec
    frames: int                 # frames of a video; for clip, images
    height: int = 0             # size of the latents
    width: int = 0
    videos: int = 1
    image_only: bool = False    # some frames are image-only (unet)


def inputs(case):
    """Return {name: array}, the same in every process."""
    spec, count = case.spec, case.videos * case.frames
    if case.network == "unet":
        scalars = sum(spec.vector_widths.values()) // spec.condition.scalar_dim
        image_only = uniform("parity.still", (case.videos, case.frames)) > 0.5
        return {"x": rand("parity.x", (count, spec.unet.in_channels, case.height, case.width)),
                "timesteps": rand("parity.timesteps", (case.videos,)),
                "context": rand("parity.context", (case.videos, 1, spec.unet.context_dim)),
                "scalars": 100 * uniform("parity.scalars", (case.videos, scalars)),
                "image_only": (image_only & case.image_only).astype(np.float32)}
    if case.network == "vae":
        pixels = (count, 3, case.height * spec.vae.factor, case.width * spec.vae.factor)
        latents = count, spec.vae.z_channels, case.height, case.width
        return {"z": spec.vae.scale_factor * rand("parity.z", latents),
                "images": 2 * uniform("parity.images", pixels) - 1}
    pixels = count, 3, spec.clip.image_size, spec.clip.image_size
    return {"images": 2 * uniform("parity.images", pixels) - 1}


def relative_error(found, expected):
    """Return the relative L2 distance of two arrays."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def draw_weights(case, path):
    """Write the network's weights to one file; see `write_weights`."""
    from sgm.diffusion.engine import Engine

    parameters = {}
    for cell in _cells(Engine(case.spec), case.network):
        parameters |= cell.parameters_dict()
    return write_weights(parameters, path)


def write_weights(parameters, path):
    """Write weights for {key: parameter}, each a function of its key, to one safetensors file.

    Returns {}, the tasks of a `sides.Side` that has none: MindSpore ends with that process.
    """
    shapes = {key: tuple(parameter.shape) for key, parameter in parameters.items()}
    header, at = {}, 0
    for key, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with open(path, "wb") as file:      # tensor by tensor: full width has 6 GB of them
        file.write(len(text).to_bytes(8, "little") + text)
        for key, shape in shapes.items():
            file.write(np.ascontiguousarray(init_weight(key, shape), np.float32).data)
    return {}


def _cells(engine, network):
    """Return the parts of an Engine that make up a network; "all": the Engine."""
    if network == "all":
        return [engine]
    if network == "unet":
        return [engine.model]
    if network == "vae":
        return [engine.conditioner.embedder("cond_frames"), engine.first_stage_model]
    return [engine.conditioner.embedder("cond_frames_without_noise")]


def ours(case, weights):
    """Return {task: function without arguments that returns an array}, on MindSpore."""
    from mindspore import Tensor

    from sgm import ops
    from sgm.checkpoints.loading import load_weights
    from sgm.diffusion.engine import Engine

    ops.set_device("CPU")
    engine, given = Engine(case.spec), inputs(case)
    for cell in _cells(engine, case.network):
        prefix = os.path.commonprefix(list(cell.parameters_dict())).rpartition(".")[0] + "."
        load_weights(cell, weights, prefix=prefix)
    if case.network == "vae":
        images, z, chunk = given["images"], given["z"], case.frames
        return {"encode": lambda: np.stack(engine.encode_moments(images, chunk=chunk)),
                "decode": lambda: engine.decode(z, chunk=chunk)}
    if case.network == "clip":
        embedder = engine.conditioner.embedder("cond_frames_without_noise")
        return {"embed": lambda: ops.fetch(embedder.embed(given["images"]))[:, 0]}
    network = engine.model.diffusion_model
    graph = ops.compiled(network.construct)
    names = tuple(case.spec.vector_widths)
    vector = np.concatenate([engine.conditioner.vector(dict(zip(names, row)), case.frames).asnumpy()
                             for row in given["scalars"]])
    timesteps, context = (np.repeat(given[name], case.frames, 0)
                          for name in ("timesteps", "context"))
    x, timesteps, context, y = map(Tensor, (given["x"], timesteps, context, vector))
    image_only = Tensor(given["image_only"])
    return {"evaluate": lambda: ops.fetch(graph(x, timesteps, context, y, case.frames, image_only))}


def theirs(case, weights):
    """Return {task: function without arguments that returns an array}, on PyTorch."""
    return their_tasks(case, network_of(case, weights))


def network_of(case, weights):
    """Return the case's network of diffusers or transformers with those weights."""
    import torch

    build = {"unet": _their_unet, "vae": _their_vae, "clip": _their_clip}[case.network]
    with torch.device("meta"):
        network = build(case.spec)
    network.load_state_dict(_their_weights(case.spec, weights, network.state_dict()), assign=True)
    if case.network == "clip":
        embeddings = network.vision_model.embeddings    # the one buffer that no file holds
        positions = torch.arange(embeddings.position_embedding.num_embeddings)
        embeddings.position_ids = positions.expand((1, -1))
    if case.network == "unet":
        set_published_epsilon(network)
    return network


def their_tasks(case, network):
    """Return the tasks of `theirs` for a network of diffusers or transformers with its weights."""
    import torch

    network.eval()
    arrays = inputs(case)
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def task(function):
        def run():
            with torch.inference_mode():
                return function().numpy()
        return run

    if case.network == "vae":
        def encode():
            posterior = network.encode(given["images"]).latent_dist
            return torch.stack((posterior.mean, posterior.logvar))

        def decode():
            z = given["z"] / case.spec.vae.scale_factor
            return network.decode(z, num_frames=case.frames).sample

        return {"encode": task(encode), "decode": task(decode)}
    if case.network == "clip":
        pixels = torch.from_numpy(((arrays["images"] + 1) / 2 - CLIP_MEAN) / CLIP_STD)
        return {"embed": task(lambda: network(pixel_values=pixels).image_embeds)}
    if case.image_only:
        def add_indicator(module, args, kwargs):
            return args, {**kwargs, "image_only_indicator": given["image_only"]}

        for block in (*network.down_blocks, network.mid_block, *network.up_blocks):
            block.register_forward_pre_hook(add_indicator, with_kwargs=True)
    sample = given["x"].unflatten(0, (case.videos, case.frames))
    return {"evaluate": task(lambda: network(
        sample, given["timesteps"], given["context"], given["scalars"]).sample.flatten(0, 1))}


def _their_weights(spec, path, wanted):
    from safetensors.torch import load_file

    published = load_file(path)
    return {place.name: to_place(published[key], place)
            for key in published for place in places(key, spec) if place.name in wanted}


def _their_unet(spec):
    from diffusers import UNetSpatioTemporalConditionModel

    unet = spec.unet
    widths = tuple(unet.model_channels * multiple for multiple in unet.channel_mult)
    attends = [2 ** level in unet.attention_resolutions for level in range(len(widths))]
    return UNetSpatioTemporalConditionModel(
        in_channels=unet.in_channels, out_channels=unet.out_channels, block_out_channels=widths,
        down_block_types=tuple("CrossAttn" * yes + "DownBlockSpatioTemporal" for yes in attends),
        up_block_types=tuple("CrossAttn" * yes + "UpBlockSpatioTemporal"
                             for yes in reversed(attends)),
        addition_time_embed_dim=spec.condition.scalar_dim,
        projection_class_embeddings_input_dim=sum(spec.vector_widths.values()),
        layers_per_block=unet.num_res_blocks, cross_attention_dim=unet.context_dim,
        num_attention_heads=tuple(width // unet.num_head_channels for width in widths))


def set_published_epsilon(network):
    """Give the residual blocks' norms of diffusers' UNet the original's eps; some have 1e-6."""
    from torch import nn

    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm) and "res_block." in name:
            module.eps = 1e-5


def _their_vae(spec):
    from diffusers import AutoencoderKLTemporalDecoder

    vae = spec.vae
    return AutoencoderKLTemporalDecoder(
        block_out_channels=tuple(vae.ch * multiple for multiple in vae.ch_mult),
        layers_per_block=vae.num_res_blocks, latent_channels=vae.z_channels,
        down_block_types=("DownEncoderBlock2D",) * len(vae.ch_mult))


def _their_clip(spec):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    clip = spec.clip
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=clip.width, intermediate_size=4 * clip.width, projection_dim=clip.embed_dim,
        num_hidden_layers=clip.layers, num_attention_heads=clip.width // clip.head_width,
        image_size=clip.image_size, patch_size=clip.patch_size, hidden_act="gelu",
        layer_norm_eps=1e-5))
