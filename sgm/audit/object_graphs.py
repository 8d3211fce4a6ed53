"""The graphs of an autodecoder: training, decoding, rendering, sampling and fitting."""
from dataclasses import replace

import numpy as np

from sgm.audit.diffusion_graphs import GraphBuilder, floats
from sgm.audit.graph import Type
from sgm.autodecoder import fitting
from sgm.autodecoder.latents.edm import DenoisingLoss
from sgm.autodecoder.object_model import CHUNK, VOXELS, ObjectModel
from sgm.autodecoder.perceptual import MultiScaleGradients, VggPyramid
from sgm.autodecoder.ray_marching import RayMarcher
from sgm.autodecoder.view_loss import ViewLoss
from sgm.config.autodecoding import ConditionSpec
from sgm.ops.adam import AdamStep
from sgm.train.optimizer import TrainStep

# As in configs/train: objects of a batch and views of each in stage 1, latents of a batch in
# stage 2. Of the views squares, which bound the memory of the samples.
OBJECTS, VIEWS, LATENTS, SIDE = 4, 4, 16, 32


def graphs(spec):
    """Yield the `GraphBuilder`s of an AutodecoderSpec."""
    yield view_step(spec, True, "gradients")
    yield view_step(replace(spec, learned_cameras=OBJECTS * VIEWS), False, "vgg")
    yield from decoding(spec)
    yield fit_step(spec)
    for told in conditions(spec):
        yield denoiser(told)
        yield denoiser_step(told)


def conditions(spec):
    """Yield the spec as it is, or if it has no condition also with a class and with a text."""
    yield spec
    if not spec.diffusion.condition.kind:
        for condition in (ConditionSpec("class", ["one", "other"]),
                          ConditionSpec("text", tokens=32, width=64)):
            yield replace(spec, diffusion=replace(spec.diffusion, condition=condition))


def _told(spec, latents):
    """Return {"tokens": Type} of the conditions of latents, and what a graph's name says of it."""
    condition = spec.diffusion.condition
    if not condition.kind:
        return {}, ""
    tokens, width = condition.shape
    return {"tokens": floats(latents * tokens, width)}, f", {condition.kind}"


def _rows(spec, objects):
    """Return the Type of `embeddings.rows`."""
    books = spec.embedding.books
    return Type("int32", (objects, books) if books else (objects,))


def view_step(spec, shared, kind):
    """Return the graph of a step of stage 1.

    shared: objects share their cameras; kind: "gradients" or "vgg", the loss.
    """
    def make():
        model = ObjectModel(spec)
        perceptual = {"gradients": MultiScaleGradients, "vgg": VggPyramid}[kind](SIDE)
        loss = ViewLoss(model, perceptual, OBJECTS, VIEWS, SIDE, 10.0, shared)
        return TrainStep(loss, list(model.get_parameters()), clip_norm=1.0)

    cameras = VIEWS * (1 if shared else OBJECTS)
    rays = cameras * SIDE ** 2
    arguments = {"rates": floats(8), "objects": _rows(spec, OBJECTS), "origins": floats(3, rays),
                 "directions": floats(3, rays), "jitter": floats(spec.samples, rays),
                 "target": floats(OBJECTS * VIEWS, 4, SIDE, SIDE)}
    if spec.learned_cameras:
        arguments["cameras"] = Type("int32", (cameras,))
    more = "shared cameras" if shared else "own cameras, learned"
    return GraphBuilder(f"autodecoder step, {more}, {kind}", make, arguments, tuple(arguments),
                        True)


class _Method:
    """Makes a Cell whose `construct` is a method of an ObjectModel."""

    def __init__(self, spec, name, diffusion=False):
        self.spec, self.name, self.diffusion = spec, name, diffusion

    def __call__(self):
        model = ObjectModel(self.spec, self.diffusion)
        model.construct = getattr(model, self.name)
        return model


def decoding(spec):
    """Yield the graphs that make objects: latents, volumes and pixels."""
    latents = floats(VOXELS, spec.volume.latent_width)
    yield GraphBuilder("latent of an object", _Method(spec, "latents"),
                       {"rows": _rows(spec, 1)}, ("rows",), True)
    yield GraphBuilder("volume of a latent", _Method(spec, "decode"), {"latents": latents},
                       ("latents",), True)
    yield GraphBuilder(
        f"{CHUNK} rays", lambda: RayMarcher(spec.volume.side, spec.samples, 1, 1),
        {"volumes": floats(spec.volume.side ** 3, 4), "origins": floats(3, CHUNK),
         "directions": floats(3, CHUNK), "jitter": floats(spec.samples, CHUNK)},
        ("origins", "directions"), True)


def fit_step(spec):
    """Return the graph of a step of fitting an embedding to views."""
    def make():
        model, rank = ObjectModel(spec), min(8, spec.embedding.length)
        found = fitting.Embeddings(np.zeros((1, spec.embedding.length), np.float32),
                                   np.ones((rank, spec.embedding.length), np.float32))
        loss = fitting.FitLoss(model, found, fitting.SQUARES, fitting.SIDE)
        return AdamStep(loss, [loss.coordinates], "fit")

    rays = fitting.SQUARES * fitting.SIDE ** 2
    pictures = fitting.SQUARES, fitting.SIDE, fitting.SIDE
    arguments = {"rates": floats(3), "origins": floats(3, rays), "directions": floats(3, rays),
                 "jitter": floats(spec.samples, rays),
                 "target": floats(pictures[0], 4, *pictures[1:]),
                 "known": floats(pictures[0], 1, *pictures[1:])}
    return GraphBuilder("fit step", make, arguments, tuple(arguments), True)


def denoiser(spec):
    """Return the graph of a step of the sampler, with guidance where there is a condition."""
    told, more = _told(spec, 2)
    count = 2 if told else 1
    arguments = {"x": floats(count * VOXELS, spec.volume.latent_width), "sigma": floats(count),
                 **told}
    return GraphBuilder(f"denoiser step{more}", lambda: ObjectModel(spec, True).denoiser,
                        arguments, tuple(arguments), True)


def denoiser_step(spec):
    """Return the graph of a step of stage 2."""
    def make():
        denoiser = ObjectModel(spec, True).denoiser
        return TrainStep(DenoisingLoss(denoiser), list(denoiser.get_parameters()), clip_norm=1.0)

    latents = floats(LATENTS * VOXELS, spec.volume.latent_width)
    told, more = _told(spec, LATENTS)
    arguments = {"rates": floats(8), "x": latents, "noise": latents, "sigma": floats(LATENTS),
                 **told}
    return GraphBuilder(f"latent diffusion step{more}", make, arguments, tuple(arguments), True)
