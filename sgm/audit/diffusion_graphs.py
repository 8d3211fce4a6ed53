"""Lists every graph of the diffusion side that runs on a device, in the shapes of a model.

Those that make a mesh are in mesh_graphs.py.
"""
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from sgm.audit import reference_flops
from sgm.audit.ascend_rules import examine
from sgm.audit.cost import cost
from sgm.audit.graph import Type, lazily, trace
from sgm.checkpoints.lora_fusion import DOWN, UP
from sgm.diffusion.engine import Engine, GuidedDenoiser
from sgm.train.lora_layers import attach
from sgm.train.losses import AutoencoderLoss, DiffusionLoss, frame_weights
from sgm.train.optimizer import TrainStep

CHUNK = 7               # frames decoded at once, the default of `sgm.diffusion.pipeline.generate`
# As in the recipes of configs/train: rank of a LoRA; weight of the condition view in the loss.
RANK, FRONT = 16, 0.5


@dataclass
class GraphBuilder:
    """How to build one graph to audit, and what is known of its calls.

    make(): returns the Cell; arguments: {name: Type} in the order of its `construct`; host: those
    that come from the host's memory at every call; fetched: the result goes there;
    reference_flops: operations of the original, None where it has no such graph.
    """
    name: str
    make: Callable
    arguments: dict
    host: tuple = ()
    fetched: bool = False
    reference_flops: float = None


def audit(builder):
    """Return costs, violations and exceptions of a graph in its form for Ascend, for a report."""
    graph = trace(builder.make, builder.arguments.values())
    found = examine(graph)
    names = list(builder.arguments)
    spent = cost(graph, [names.index(name) for name in builder.host], builder.fetched)
    return {"graph": builder.name, "nodes": len(graph.computing), "flops": spent.flops,
            "reference_flops": builder.reference_flops, "bytes": spent.bytes,
            "weight_bytes": spent.weights, "host_bytes": spent.host,
            "violations": found.violations, "exceptions": dict(found.exceptions),
            "primitives": dict(Counter(node.op for node in graph.computing))}


class Fixed(nn.Cell):
    """A cell, or its `prepare`, with the number of frames as a part of the graph, not an input."""

    def __init__(self, cell, frames, prepares=False):
        super().__init__(auto_prefix=False)
        self.cell, self.frames, self.prepares = cell, frames, prepares

    def construct(self, x):
        """Call the cell, or its `prepare`, with x and the number of frames."""
        if self.prepares:
            return self.cell.prepare(x, self.frames)
        return self.cell(x, self.frames)


def floats(*shape, dtype="float32"):
    """Return the Type of a floating tensor."""
    return Type(dtype, shape)


def graphs(spec, dtypes=("float16", "bfloat16", "float32")):
    """Yield the `GraphBuilder`s of a model.

    They are sampling and training with a UNet of each of `dtypes`, and what runs in float32.
    """
    for dtype in dtypes:
        yield from denoising(spec, dtype)
    yield from encoding(spec)
    for dtype in dtypes:
        yield training(spec, dtype)
    yield training(spec, "bfloat16", lora=True)
    if spec.vae.decoder == "image":             # nothing here trains a decoder over time
        yield autoencoding(spec)


def _latent(spec):
    return spec.vae.z_channels, spec.height // spec.vae_factor, spec.width // spec.vae_factor


def denoising(spec, dtype):
    """Yield the graphs of the UNet in `dtype`: a guided step, and what is computed once a run."""
    frames, latent = spec.num_frames, _latent(spec)
    with no_init_parameters():
        unet = Engine(spec).model.diffusion_model
    prepared = 3 * sum(transformer.width for transformer in unet.transformers)

    def model():
        return lazily(Engine(spec).model, getattr(ms, dtype))

    yield GraphBuilder(
        f"UNet step, {dtype}", lambda: GuidedDenoiser(model(), frames),
        {"x": floats(frames, *latent), "sigma": floats(1),
         "prepared": floats(2 * frames, prepared, dtype=dtype),
         "concat": floats(2 * frames, *latent),
         "vector": floats(2 * frames, sum(spec.vector_widths.values())),
         "image_only": floats(2 * frames), "scale": floats(frames, 1, 1, 1)},
        host=("sigma", "scale"),
        reference_flops=reference_flops.unet(spec, *latent[1:], 2 * frames))
    yield GraphBuilder(
        f"UNet, once a run, {dtype}", lambda: Fixed(model().diffusion_model, frames, prepares=True),
        {"context": floats(frames, 1, spec.unet.context_dim, dtype=dtype)})


def encoding(spec):
    """Yield the graphs of CLIP, and of the autoencoder in both directions; in float32."""
    latent, side = _latent(spec), spec.clip.image_size

    def embedder(name):
        return Engine(spec).conditioner.embedder(name)

    yield GraphBuilder(
        "CLIP, one image",
        lambda: embedder("cond_frames_without_noise").open_clip.model.visual,
        {"image": floats(1, 3, side, side)}, host=("image",), fetched=True,
        reference_flops=reference_flops.clip(spec.clip))
    yield GraphBuilder(
        "VAE encode, one image", lambda: embedder("cond_frames").encoder,
        {"image": floats(1, 3, spec.height, spec.width)}, host=("image",), fetched=True,
        reference_flops=reference_flops.encoder(spec, *latent[1:], 1))
    frames = CHUNK if spec.vae.decoder == "temporal" else 1
    yield GraphBuilder(
        f"VAE decode, {CHUNK} frames, {spec.vae.decoder}",
        lambda: Fixed(Engine(spec).first_stage_model, frames),
        {"z": floats(CHUNK, *latent)}, fetched=True,
        reference_flops=reference_flops.decoder(spec, *latent[1:], CHUNK))


def training(spec, dtype, lora=False):
    """Return the graph of an optimizer step of the UNet, or of a LoRA in it, computed in `dtype`.

    It is the step of the recipes of published models, so with accumulated gradients and weighted
    views. A run compiles its parts one by one. Recomputation in the backward pass is left out: it
    adds no operator, but a third of the nodes. The original's backward pass is assumed to cost
    twice its forward pass.
    """
    frames, latent = spec.num_frames, _latent(spec)

    def step():
        engine = Engine(spec)
        model = engine.model
        if lora:
            attach(engine, RANK, RANK, 0)
        trained = [p for p in lazily(model, getattr(ms, dtype)).get_parameters()
                   if not lora or p.name.endswith((DOWN, UP))]
        weights = frame_weights(frames, FRONT) if spec.is_orbit else None
        loss = DiffusionLoss(model, frames, getattr(ms, dtype), weights)
        # a LoRA's matrices are too narrow for Muon, a UNet's are updated by it
        return TrainStep(loss, trained, clip_norm=1.0, accumulate=2, half=dtype != "float32",
                         with_muon=not lora)

    batch = {"rates": floats(8), "x0": floats(frames, *latent), "noise": floats(frames, *latent),
             "sigma": floats(frames), "crossattn": floats(frames, 1, spec.unet.context_dim),
             "concat": floats(frames, *latent),
             "vector": floats(frames, sum(spec.vector_widths.values()))}
    flops = reference_flops.unet(spec, *latent[1:], frames)
    name = f"training step, {'LoRA' if lora else 'UNet'}, {dtype}"
    return GraphBuilder(name, step, batch, tuple(batch), True, 3 * flops)


def autoencoding(spec):
    """Return the graph of an optimizer step of the autoencoder; in float32."""
    def step():
        engine = Engine(spec)
        encoder = engine.conditioner.embedder("cond_frames").encoder
        decoder = engine.first_stage_model
        weights = [*encoder.get_parameters(), *decoder.get_parameters()]
        return TrainStep(AutoencoderLoss(encoder, decoder, 1e-6), weights, clip_norm=1.0)

    latent = _latent(spec)
    batch = {"rates": floats(8), "image": floats(1, 3, spec.height, spec.width),
             "noise": floats(1, *latent)}
    flops = sum(half(spec, *latent[1:], 1)
                for half in (reference_flops.encoder, reference_flops.decoder))
    return GraphBuilder("training step, autoencoder", step, batch, tuple(batch), True, 3 * flops)
