"""The networks of one model under their published names: condition, sample, decode, encode.

T frames, H x W pixels, h x w latents; pixels float32 in [-1, 1], NCHW.
"""
from contextlib import contextmanager
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.common.initializer import initializer

from sgm import ops
from sgm.checkpoints.loading import file_hash, load_weights
from sgm.diffusion import guidance, samplers
from sgm.diffusion.denoiser import Denoiser, tensor
from sgm.models.autoencoder import Conv2d, Decoder
from sgm.models.conditioner import Conditioner
from sgm.models.temporal_decoder import VideoDecoder


class FirstStage(nn.Cell):
    """The decoder; only svd_image_decoder has the 1x1 convolutions of an AutoencoderKL."""

    def __init__(self, spec):
        super().__init__()
        self.temporal = spec.decoder == "temporal"
        self.decoder = VideoDecoder(spec) if self.temporal else Decoder(spec)
        self.post_quant_conv = None
        if spec.post_quant_conv:
            # published, but nothing uses it
            self.quant_conv = Conv2d(2 * spec.z_channels, 2 * spec.z_channels, 1)
            self.post_quant_conv = Conv2d(spec.z_channels, spec.z_channels, 1)

    def construct(self, z, frames):
        """Return images (T, 3, H, W) of unscaled latents (T, 4, h, w); `frames` make one video."""
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        return self.decoder(z, frames)


class GuidedDenoiser(nn.Cell):
    """One guided evaluation: unconditional and conditional in one batch."""

    def __init__(self, denoiser, num_frames):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser
        self.num_frames = num_frames

    def construct(self, x, sigma, prepared, concat, vector, image_only, scale):
        """Return the guided estimate (T, 4, h, w).

        x (T, 4, h, w), sigma (1,), scale (T, 1, 1, 1); the conditions hold 2 T rows, unconditional
        first.
        """
        sigma = sigma.broadcast_to((2 * self.num_frames,))
        both = self.denoiser(ms.ops.concat((x, x), 0), sigma, prepared, concat, vector, image_only,
                             self.num_frames)
        return guidance.guide(both[:self.num_frames], both[self.num_frames:], scale)


class Engine(nn.Cell):
    """All networks of a `sgm.config.model.ModelSpec`; parameters take no memory until loaded.

    weights: an open TensorStore; dtype: what the UNet computes in, kept: the type in which its
    weights are in memory (None: the same). Every public call, and `model.diffusion_model(...)`,
    loads the part of `PARTS` that it needs if it is not in memory, and keeps it; `weights_loaded`
    and `release` give it back. Without `weights`, the caller fills the parameters.
    """

    PARTS = ("conditioner", "model", "first_stage_model")

    def __init__(self, spec, weights=None, dtype=ms.float32, kept=None):
        super().__init__()
        self.spec = spec
        self.weights = weights
        self.is_random = False                  # whether its weights were only drawn
        self.dtype, self.kept = dtype, kept or dtype
        self.model = Denoiser(spec.unet, sum(spec.vector_widths.values()))
        self.first_stage_model = FirstStage(spec.vae)
        self.conditioner = Conditioner(spec)
        for name, parameter in self.parameters_and_names():
            parameter.name = name
        self.model.diffusion_model.before_call = partial(self._load, "model")
        self.model.diffusion_model.dtype = None if kept is None else dtype
        self._loaded = set()                    # parts whose weights are in memory
        self._stages = []                       # parts of the `weights_loaded` blocks that are open
        self._graphs = {}
        self._hash = None

    def __repr__(self):
        spec, dtype = self.spec, self.precision.lower()
        origin = "random weights" if self.is_random else "no file"
        origin = origin if self.weights is None else self.weights.path.name
        size = f"{spec.num_frames} frames of {spec.height}x{spec.width}"
        return f"<Engine {spec.name}: {size}, {dtype}, {origin}>"

    @property
    def precision(self):
        """Return the UNet's precision as text: "Float32", or "Float32, weights Float16"."""
        return str(self.dtype) + f", weights {self.kept}" * (self.kept != self.dtype)

    def _load(self, part):
        """Load the weights of one of `PARTS`, unless they are in memory."""
        cell = getattr(self, part)
        if self.weights is None:
            if part == "model" and self.kept != ms.float32:
                for parameter in cell.get_parameters():
                    if parameter.dtype != self.kept:
                        parameter.set_dtype(self.kept)
        elif part not in self._loaded:
            # before: a part that fails half way is given back too
            self._loaded.add(part)
            dtype = self.kept if part == "model" else None
            load_weights(cell, self.weights, dtype, prefix=part + ".")

    def _unload(self, parts):
        """Give the memory of parts back to the file."""
        for part in self._loaded.intersection(parts):
            for parameter in getattr(self, part).get_parameters():
                zeros = initializer("zeros", parameter.shape, parameter.dtype)
                parameter.assign_value(Tensor(zeros))
            self._loaded.remove(part)

    @contextmanager
    def weights_loaded(self, part):
        """Context manager: hold the weights of one of `PARTS` in memory, then give them back.

        Other parts that calls outside of such a block have loaded are given back first.
        """
        self._unload(set(self.PARTS) - {part, *self._stages})
        self._stages.append(part)
        try:
            self._load(part)
            yield
        finally:
            self._stages.remove(part)
            if part not in self._stages:
                self._unload([part])

    def release(self):
        """Give back the memory of compiled graphs, and of weights outside `weights_loaded` blocks.

        They are compiled and loaded again when they are used.
        """
        self._graphs.clear()
        for cell in self.conditioner.embedders:
            cell.release()
        self._unload(set(self.PARTS) - set(self._stages))
        ops.release()

    def weights_hash(self):
        """Return the hash of the checkpoint, computed once; "random" if there is none."""
        if self._hash is None:
            self._hash = "random" if self.is_random else file_hash(self.weights.path)
        return self._hash

    def graph(self, key, make):
        """Return the compiled function of a key, made by `make()` the first time."""
        if key not in self._graphs:
            self._graphs[key] = ops.compiled(make())
        return self._graphs[key]

    def condition(self, image, cond_noise, cond_aug=None, num_frames=None, polars_rad=None,
                  azimuths_rad=None, fps_id=None, motion_bucket_id=None):
        """Return the conditions (c, uc) of an image: dicts of crossattn, concat and vector.

        image, cond_noise (1, 3, H, W). cond_aug: standard deviation of the noise added to the
        image. polars_rad, azimuths_rad: (T,) radians. Results: crossattn (T, 1, D), concat
        (T, 4, h, w), vector (T, V). Raises ValueError naming a missing scalar or one of the wrong
        length.
        """
        self._load("conditioner")
        cond_aug = self.spec.condition.cond_aug if cond_aug is None else cond_aug
        return self.conditioner.condition(
            _numpy(image), _numpy(cond_noise), cond_aug, num_frames or self.spec.num_frames,
            polars_rad=polars_rad, azimuths_rad=azimuths_rad, fps_id=fps_id,
            motion_bucket_id=motion_bucket_id)

    def denoiser(self, c, uc, scale, sequential=False):
        """Return the guided denoiser of one run, a function `(x, sigma) -> denoised`.

        What depends on the conditions only is computed here, once. scale (T,): guidance per frame.
        `sequential` evaluates the two sides one after the other: half the memory. Where all scales
        are 1 the unconditional side has no weight and is not evaluated: half the time.
        """
        self._load("model")
        num_frames = c["concat"].shape[0]
        sides = (c,) if np.all(np.asarray(scale) == 1) else (uc, c)
        sides = [{key: tensor(value) for key, value in side.items()} for side in sides]
        scale = Tensor(np.asarray(scale, np.float32).reshape(-1, 1, 1, 1))
        for side in sides:
            side["prepared"] = self.model.prepare(side["crossattn"].astype(self.dtype), num_frames)
        names = ("prepared", "concat", "vector")
        if sequential or len(sides) == 1:
            image_only = ms.ops.zeros((num_frames,), ms.float32)

            def denoise(x, sigma):
                self._load("model")
                step = self.graph(("side", num_frames), lambda: self.model.construct)
                sigma = Tensor(np.full(num_frames, sigma, np.float32))
                found = [step(x, sigma, *(side[name] for name in names), image_only, num_frames)
                         for side in sides]
                return found[0] if len(found) == 1 else guidance.guide(*found, scale)
        else:
            image_only = ms.ops.zeros((2 * num_frames,), ms.float32)
            both = [ms.ops.concat((sides[0][name], sides[1][name]), 0) for name in names]

            def denoise(x, sigma):
                self._load("model")
                step = self.graph(("pair", num_frames),
                                  lambda: GuidedDenoiser(self.model, num_frames).construct)
                return step(x, Tensor(np.array([sigma], np.float32)), *both, image_only, scale)
        return denoise

    def sample(self, noise, c, uc, steps=None, sampler=None, guidance_scales=None,
               sequential=False, callback=None):
        """Return clean latents (T, 4, h, w), scaled by the VAE's factor.

        noise (T, 4, h, w): standard normal. `callback(i, x, denoised)` is called after every step.
        Defaults are the model's own (`spec.sampling`).
        """
        options = self.spec.sampling
        if guidance_scales is None:
            guidance_scales = guidance.scales(options.guidance, options.min_scale,
                                              options.max_scale, noise.shape[0])
        sigmas = samplers.karras_sigmas(steps or options.steps, options.sigma_min,
                                        options.sigma_max, options.rho, options.sigma_second)
        x = tensor(noise) * float(options.start_noise * np.sqrt(1 + sigmas[0] ** 2))
        denoise = self.denoiser(c, uc, guidance_scales, sequential)
        steps = samplers.BY_NAME[sampler or options.sampler](denoise, x, sigmas)
        for i, x, denoised in steps:  # noqa: B020 - the sampler holds its own x
            ops.wait()
            if callback:
                callback(i, x, denoised)
        return x

    def decode(self, z, chunk=7):
        """Return the frames (T, 3, H, W) of scaled latents (T, 4, h, w), decoded `chunk` at a time.

        The image decoder's result does not depend on `chunk`; the temporal decoder sees one chunk
        as one video.
        """
        self._load("first_stage_model")
        z = tensor(z) / self.spec.vae.scale_factor
        decode = self.graph("decode", lambda: self.first_stage_model.construct)
        temporal = self.first_stage_model.temporal
        pieces = []
        for i in range(0, z.shape[0], chunk):
            piece = z[i:i + chunk]
            count = piece.shape[0]
            if count < chunk and i and not temporal:    # keep the compiled shape
                filling = z[:1].broadcast_to((chunk - count,) + z.shape[1:])
                piece = ms.ops.concat((piece, filling), 0)
            pieces.append(ops.fetch(decode(piece, count if temporal else 1))[:count])
        return np.concatenate(pieces)

    def encode(self, frames, chunk=7):
        """Return the scaled latents (T, 4, h, w) of frames (T, 3, H, W): the encoder's mode.

        The encoder is the conditioner's: every published file has it.
        """
        return self.encode_moments(frames, chunk)[0] * np.float32(self.spec.vae.scale_factor)

    def encode_moments(self, frames, chunk=7):
        """Return unscaled mean and log variance of frames (T, 3, H, W), each (T, 4, h, w) numpy."""
        self._load("conditioner")
        embedder = self.conditioner.embedder("cond_frames")
        frames = _numpy(frames)
        parts = [[ops.fetch(part) for part in embedder.moments(frames[i:i + chunk])]
                 for i in range(0, len(frames), chunk)]
        return tuple(np.concatenate([part[k] for part in parts]) for k in range(2))


def _numpy(x):
    return ops.fetch(x) if isinstance(x, Tensor) else np.asarray(x, np.float32)
