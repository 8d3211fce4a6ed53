"""The orbit model that distills: one guided evaluation of an Engine around its input view."""
import logging
from contextlib import contextmanager

import cv2
import mindspore as ms
import numpy as np
from mindspore import nn
from PIL import Image

from sgm import ops
from sgm.common.errors import argument
from sgm.diffusion.denoiser import tensor
from sgm.diffusion.guards import memory_errors, require_finite
from sgm.diffusion.pipeline import load_model
from sgm.reconstruct.distill.goals import Distiller
from sgm.reconstruct.posed_views import ShapeError
from sgm.views.folder import read_run
from sgm.views.images import composite, load_image
from sgm.views.preprocessing import to_network
from sgm.views.transforms import json_path, read_transforms

GUIDANCE = 3.0      # of the authors
LARGE = 1 << 28     # parameters from which the networks are not all kept in memory on a CPU
log = logging.getLogger("sgm")


class Along(nn.Cell):
    """The inner product of an encoder's latents with given ones: a number with a gradient."""

    def __init__(self, embedder, scale):
        super().__init__(auto_prefix=False)
        self.embedder, self.scale = embedder, scale

    def construct(self, image, latents):
        """Return sum(scaled latents of images (N, 3, H, W) * latents (N, z, h, w))."""
        return (self.embedder(image)[0] * latents).sum() * self.scale


class ModelDenoiser:
    """One guided evaluation of an orbit model around its input view: the `denoise` of a Distiller.

    engine: an `sgm.diffusion.engine.Engine`. image (1, 3, H, W) in [-1, 1], on white: the input.
    guidance: scale of every frame; 0: 3, or 1 for a model that samples without guidance. The
    weights of one stage are in memory at a time, as in sampling. Raises ShapeError for a model of
    videos.
    """

    def __init__(self, engine, image, guidance, chunk=7, sequential=False):
        spec = engine.spec
        if not spec.is_orbit:
            raise ShapeError(f"{argument('model')}: found {spec.name}, a model of videos, expected"
                             " one of orbits (sv3d_u, sv3d_p)")
        self.engine, self.image, self.chunk, self.sequential = engine, image, chunk, sequential
        self.name = " ".join([spec.name, *weights_of(engine).values(), engine.precision])
        self.num_frames, self.size = spec.num_frames, (spec.height, spec.width)
        self.is_posed = spec.is_posed
        own = 1.0 if spec.sampling.max_scale == 1 else GUIDANCE
        self.guidance = np.full(spec.num_frames, guidance or own, np.float32)
        self.frees_graphs = is_large(engine) and not ops.on_ascend()
        self.given = None                       # the image's conditions

    def __call__(self, clip, orbit, sigma, rng):
        """Return the model's pictures (T, 3, H, W) of a clip with noise of the level sigma."""
        _, z = self._estimate(clip, orbit, sigma, rng)
        with self._stage("first_stage_model"):
            pictures = self.engine.decode(z, self.chunk)
            self._check(pictures, "first_stage_model")
        return pictures

    def latent(self, clip, mask, orbit, sigma, rng):
        """Return a clip less the gradient of 1/2 sum mask |z - estimate|^2 by it, z its latents."""
        z, estimate = self._estimate(clip, orbit, sigma, rng)
        h, w = z.shape[2:]
        weights = np.stack([cv2.resize(m, (w, h), interpolation=cv2.INTER_AREA) for m in mask])
        toward = (weights[:, None] * (z - estimate)).astype(np.float32)
        with self._stage("conditioner"):
            engine = self.engine
            encoder = Along(engine.conditioner.embedder("cond_frames"),
                            engine.spec.vae.scale_factor)
            gradient = engine.graph("pulled back", lambda: ms.grad(encoder))
            pulled = [ops.fetch(gradient(tensor(clip[i:i + self.chunk]),
                                         tensor(toward[i:i + self.chunk])))
                      for i in range(0, len(clip), self.chunk)]
        return clip - np.concatenate(pulled)

    def _estimate(self, clip, orbit, sigma, rng):
        """Return the latents (T, 4, h, w) of a clip, and what the model makes of them with noise.
        """
        engine, angles = self.engine, {}
        if self.is_posed:
            angles = {"polars_rad": orbit.polars_rad, "azimuths_rad": orbit.azimuths_rad}
        with self._stage("conditioner"):
            if self.given is None:
                noise = np.random.RandomState(0).standard_normal(self.image.shape)
                sides = engine.condition(self.image, noise.astype(np.float32),
                                         num_frames=self.num_frames, **angles)
                self.given = [{key: ops.fetch(value) for key, value in side.items()}
                              for side in sides]
            z = engine.encode(clip, self.chunk)
        scalars = {"cond_aug": engine.spec.condition.cond_aug, **angles}
        vector = engine.conditioner.vector(scalars, self.num_frames)
        c, uc = ({**side, "vector": vector} for side in self.given)
        noisy = z + np.float32(sigma) * rng.standard_normal(z.shape).astype(np.float32)
        with self._stage("model"):
            denoise = engine.denoiser(c, uc, self.guidance, self.sequential)
            estimate = ops.fetch(denoise(tensor(noisy), sigma))
            self._check(estimate, "model")
        return z, estimate

    @contextmanager
    def _stage(self, part):
        """Context manager: hold the weights of one of `Engine.PARTS`; a large model frees all."""
        with (memory_errors("distill", f"use {argument('dtype')} fp16, or leave"
                            f" {argument('distill')} out"), self.engine.weights_loaded(part)):
            yield
        if self.frees_graphs:
            self.engine.release()

    def _check(self, array, part):
        """Raise an error if the result of a part is not finite."""
        keys = getattr(self.engine, part).parameters_dict()
        require_finite(array, "distill", self.engine.weights, keys)


def weights_of(engine):
    """Return what run.json says of an Engine's weights: their hash, and that of a LoRA."""
    found = {"hash": engine.weights_hash()}
    if engine.weights is not None and "lora" in engine.weights.metadata:
        found["lora"] = str(engine.weights.metadata["lora"])
    return found


def is_large(engine):
    """Return whether a CPU should not hold all networks of an Engine at once."""
    return sum(int(np.prod(p.shape)) for p in engine.get_parameters()) > LARGE


def load(folder, model=None, ckpt=None, dtype="fp32", lora=None):
    """Return the Engine of the model that run.json says has made a views folder, or of `model`.

    ckpt, dtype, lora: as of `load_model`. Raises ShapeError and what `load_model` does.
    """
    name = model or read_run(folder).get("model")
    if not isinstance(name, str):
        raise ShapeError(f"{argument('model')}: found none, and no run.json in {folder} that names"
                         " one; give the orbit model that made the views")
    return load_model(name, ckpt, dtype, lora=lora)


def of_views(folder, engine, settings, sequential=False):
    """Return the Distiller of a views folder. settings: a `DistillSpec`.

    The input is input.png, or the last view. A line warns of other weights than those that made the
    views. Raises ShapeError for a model of videos, and for damaged views.
    """
    made_by, ours = read_run(folder).get("checkpoint"), weights_of(engine)
    if isinstance(made_by, dict) and {key: made_by[key] for key in ("hash", "lora")
                                      if key in made_by} != ours:
        log.warning("%s: its views were made by other weights (%s) than those that distill (%s)",
                    folder, made_by, ours)
    size = engine.spec.height, engine.spec.width
    file = read_transforms(folder).files[-1]
    shown = json_path(folder).parent / "input.png"      # the views may be on another background
    image = load_image(shown if shown.is_file() else file)
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.LANCZOS)
    pixels = to_network(composite(np.asarray(image)))
    denoise = ModelDenoiser(engine, pixels, settings.guidance, 2 if is_large(engine) else 7,
                            sequential)
    return Distiller(denoise, settings, file)


def seconds_per_clip(run):
    """Return about how many seconds a clip takes by the run.json of sampling, or None.

    A step of sampling and a decoding are in it; encoding is taken to last as long as decoding.
    """
    try:
        stages = run["stages"]
        return stages["sample"]["seconds"] / run["steps"] + 2 * stages["decode"]["seconds"]
    except (KeyError, TypeError, ZeroDivisionError):
        return None
