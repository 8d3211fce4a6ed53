"""The graphs of an autodecoder: training of both stages, decoding, rendering and sampling."""
from dataclasses import replace

from sgm.audit.diffusion_graphs import GraphBuilder, floats
from sgm.audit.graph import Type
from sgm.autodecoder.latents.edm import DenoisingLoss
from sgm.autodecoder.object_model import CHUNK, VOXELS, ObjectModel
from sgm.autodecoder.perceptual import MultiScaleGradients, VggPyramid
from sgm.autodecoder.ray_marching import RayMarcher
from sgm.autodecoder.view_loss import ViewLoss
from sgm.train.optimizer import TrainStep

# As in configs/train: objects of a batch and views of each in stage 1, latents of a batch in
# stage 2. Of the views squares, which bound the memory of the samples.
OBJECTS, VIEWS, LATENTS, SIDE = 4, 4, 16, 32


def graphs(spec):
    """Yield the `GraphBuilder`s of an AutodecoderSpec."""
    yield view_step(spec, True, "gradients")
    yield view_step(replace(spec, learned_cameras=OBJECTS * VIEWS), False, "vgg")
    yield from decoding(spec)
    yield denoiser_step(spec)


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
    """Yield the graphs that make objects: latents, volumes, pixels, and a step of the sampler."""
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
    yield GraphBuilder("denoiser step", lambda: ObjectModel(spec, True).denoiser,
                       {"x": latents, "sigma": floats(1)}, ("x", "sigma"), True)


def denoiser_step(spec):
    """Return the graph of a step of stage 2."""
    def make():
        denoiser = ObjectModel(spec, True).denoiser
        return TrainStep(DenoisingLoss(denoiser), list(denoiser.get_parameters()), clip_norm=1.0)

    latents = floats(LATENTS * VOXELS, spec.volume.latent_width)
    arguments = {"rates": floats(8), "x": latents, "noise": latents, "sigma": floats(LATENTS)}
    return GraphBuilder("latent diffusion step", make, arguments, tuple(arguments), True)
