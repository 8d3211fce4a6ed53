"""From an image to views: condition, sample, decode, with the weights of one stage in memory."""
import hashlib
import logging
import os
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from PIL import Image

from sgm import __version__, ops
from sgm.checkpoints.foreign.wrapped_keys import AVERAGE
from sgm.checkpoints.loading import check_weights
from sgm.checkpoints.lora_fusion import fuse
from sgm.checkpoints.opening import open_weights
from sgm.common.errors import argument
from sgm.config.model import FPS, PRECISIONS
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import DATA, ConfigError, find_config
from sgm.diffusion import guidance, sketch
from sgm.diffusion.engine import Engine
from sgm.diffusion.guards import (
    PipelineError,
    check_request,
    memory_errors,
    of_memory,
    require_finite,
)
from sgm.models.initialization import initialize
from sgm.ops.profiling import StageTimer
from sgm.views import images, preprocessing
from sgm.views.cameras import Orbit
from sgm.views.folder import Views

# what the UNet computes in, and what its weights are kept in
_DTYPES = dict(zip(PRECISIONS, ((ms.float32, None), (ms.float16, None), (ms.bfloat16, None),
                                (ms.float32, ms.float16))))
EMBEDDED = ("sv3d_tiny", DATA / "assets" / "sv3d_tiny.safetensors")
RANDOM = "random"           # the `ckpt` of a model without weights
log = logging.getLogger("sgm")


def load_model(model=EMBEDDED[0], ckpt=None, dtype="fp32", overrides=(), lora=None,
               ema=False):
    """Return the Engine of a model with its weights.

    model: a name, one of our YAML files, or one of the reference's. ckpt: .safetensors (published
    or ours), .ckpt, or a diffusers folder; None: those that are embedded, of sv3d_tiny only;
    "random" draws them, for tests: such a model makes noise, as a warning says. dtype: precision of
    the UNet, "fp32", "fp16", "bf16", or "fp16-weights", which keeps its weights in half precision
    and computes in float32; the rest runs in float32. lora: a LoRA file of train.py for
    those weights. ema: take the moving average that the file holds besides the weights. Raises
    ConfigError, CheckpointError.
    """
    if dtype not in PRECISIONS:
        raise PipelineError(f"{argument('dtype')}: found {dtype!r}, expected one of"
                            f" {', '.join(PRECISIONS)}")
    if dtype == "bf16" and ops.target() == "CPU":
        raise PipelineError(f"{argument('dtype')} bf16: MindSpore has no bfloat16 kernels for a"
                            " CPU; use fp32")
    spec = load_spec(model, overrides)
    if ckpt == RANDOM:
        if lora is not None or ema:
            name = argument("lora") if lora is not None else argument("ema")
            raise PipelineError(f"{name}: found {argument('ckpt')} {RANDOM}, expected the weights"
                                " that it is for")
        log.warning("%s has random weights, as %s %s asks for: it makes noise", spec.name,
                    argument("ckpt"), RANDOM)
        engine = Engine(spec, None, *_DTYPES[dtype])
        initialize(engine, seed=0)
        engine.is_random = True
        return engine
    if ckpt is None:
        if find_config(model, "sampling") != find_config(EMBEDDED[0], "sampling"):
            raise ConfigError(f"{argument('ckpt')}: found none for {spec.name}, expected its"
                              f" weights, since only those of {EMBEDDED[0]} are embedded;"
                              f" {RANDOM} draws some that make noise")
        ckpt = EMBEDDED[1]
    weights, spec = open_weights(ckpt, spec, ema=ema)
    if lora is not None:
        weights = fuse(weights, lora)
    engine = Engine(spec, weights, *_DTYPES[dtype])
    check_weights(engine, weights)
    return engine


@dataclass(frozen=True)
class SampleOptions:
    """How views are made from an image; None stands for the model's own value."""
    seed: int = 23                              # seed of both noises
    steps: Optional[int] = None                 # sampling steps
    sampler: Optional[str] = None               # a name of `sgm.config.model.SAMPLERS`
    guidance_range: Optional[tuple] = None      # (min, max) guidance scale over the frames
    cond_aug: Optional[float] = None            # standard deviation of the image's noise
    fps: float = FPS            # frames per second of the video; svd is conditioned on them
    motion_bucket: float = 127                  # amount of motion that svd is conditioned on
    decode_chunk: int = 7                       # frames decoded at once
    # evaluate the two sides of the guidance one after the other: half the memory
    sequential: bool = False
    # keep what was compiled for the next image; False frees the memory of each stage
    keep_graphs: bool = True

    def of_model(self, spec):
        """Return these options with the values of the model `spec` in place of None."""
        sampling = spec.sampling
        own = {"steps": sampling.steps, "sampler": sampling.sampler,
               "cond_aug": spec.condition.cond_aug,
               "guidance_range": (sampling.min_scale, sampling.max_scale)}
        missing = {name: own[name] for name in own if getattr(self, name) is None}
        return replace(self, **missing)


def generate(engine, image, orbit=None, seed=23, steps=None, sampler=None, guidance_range=None,
             cond_aug=None, fps=FPS, motion_bucket=127, decode_chunk=7, sequential=False,
             keep_graphs=True, on_step=None, on_stage=None):
    """Return the `Views` of an image.

    The keywords from `seed` to `keep_graphs` are the fields of `SampleOptions`; the other arguments
    are those of `generate_views`, which says what is raised.
    """
    options = SampleOptions(seed, steps, sampler or None, guidance_range or None, cond_aug, fps,
                            motion_bucket, decode_chunk, sequential, keep_graphs)
    return generate_views(engine, image, orbit, options, on_step=on_step, on_stage=on_stage)


def generate_views(engine, image, orbit=None, options=None, *, on_step=None, on_stage=None,
                   on_begin=None):
    """Return the `Views` of an image.

    image: (H, W, 4) uint8 of the model's size from `sgm.views.preprocessing.prepare`, or a PIL
    image, which is turned upright by its EXIF data and goes through it first. orbit: an `Orbit`
    with the number of views to make (default static, elevation 10); svd uses none. options:
    `SampleOptions`. on_step(i, steps, estimate) with an `Estimate` of the frames;
    on_begin(name) and on_stage(name, seconds, peak_gb) before and after the stages "condition",
    "sample" and "decode". Raises PipelineError for an argument out of bounds, for too little memory
    and when a stage's result is not finite, and CheckpointError when that is because its weights
    are not.
    """
    # 1. inputs
    spec = engine.spec
    options = (options or SampleOptions()).of_model(spec)
    if not isinstance(image, (np.ndarray, Image.Image)):
        raise PipelineError(f"image: found a {type(image).__name__}, expected a PIL image, as of"
                            " PIL.Image.open")
    if not isinstance(orbit, (Orbit, type(None))):
        raise PipelineError(f"orbit: found {type(orbit).__name__}, expected an Orbit, such as"
                            " sgm.Orbit.static(elevation=10)")
    given, matte = image_record(image), None
    if isinstance(image, Image.Image):
        upright = images.upright_rgba(image, "image")
        image, given["cut_out"], matte = preprocessing.prepare(
            upright, (spec.height, spec.width), cut_out=spec.is_orbit)
    orbit = (orbit or Orbit.static(num_frames=spec.num_frames)) if spec.is_orbit else None
    num_frames = len(orbit) if spec.is_orbit else spec.num_frames
    check_request(spec, image, options.sampler, seed=options.seed, steps=options.steps,
                  guidance_range=options.guidance_range, cond_aug=options.cond_aug, fps=options.fps,
                  motion_bucket=options.motion_bucket, decode_chunk=options.decode_chunk)
    scalars = {"fps_id": options.fps, "motion_bucket_id": options.motion_bucket}
    if spec.is_orbit:
        angles = {"polars_rad": orbit.polars_rad, "azimuths_rad": orbit.azimuths_rad}
        scalars = angles if spec.is_posed else {}
    stages = StageTimer(on_stage, on_begin)

    # 2. noise: from a stream that numpy never changes; the image's first, as in the original
    rng = np.random.RandomState(options.seed)
    pixels = preprocessing.to_network(images.composite(image))
    cond_noise = rng.standard_normal(pixels.shape).astype(np.float32)
    latent = spec.vae.z_channels, spec.height // spec.vae_factor, spec.width // spec.vae_factor
    noise = rng.standard_normal((num_frames, *latent)).astype(np.float32)

    # 3. condition
    with (stages("condition"), memory_errors("condition", f"lower {_size()}"),
          engine.weights_loaded("conditioner")):
        c, uc = engine.condition(pixels, cond_noise, options.cond_aug, num_frames, **scalars)
        for name, value in c.items():
            _checked(ops.fetch(value), f"condition ({name})", engine, "conditioner")
    if not options.keep_graphs:
        engine.release()

    # 4. sample
    colors = None
    if on_step:
        colors = sketch.fitted(ops.fetch(c["concat"])[0] * spec.vae.scale_factor, pixels[0])

    def after_step(i, x, denoised):
        if on_step:
            on_step(i, options.steps, Estimate(engine, denoised, options.decode_chunk, colors))

    with (stages("sample"), memory_errors("sample", _smaller()),
          engine.weights_loaded("model")):
        scale = guidance.scales(spec.sampling.guidance, *options.guidance_range, num_frames)
        z = engine.sample(noise, c, uc, options.steps, options.sampler, scale, options.sequential,
                          after_step)
        z = _checked(ops.fetch(z), "sample", engine, "model")
    if not options.keep_graphs:
        engine.release()

    # 5. decode; the last view of an orbit is the input itself
    with stages("decode"), memory_errors("decode", f"lower {_size()}"):
        frames = _decoded(engine, z, options.decode_chunk)
    if spec.is_orbit:
        frames[-1] = images.composite(image)

    # 6. what run.json says
    run = {"image": given, **run_record(engine, orbit, options), "stages": stages.log}
    return Views(frames, image, orbit, run, options.fps, matte)


@dataclass(frozen=True)
class Estimate:
    """The frames that the model expects after a step of sampling.

    latents (T, z, h, w), scaled; chunk: frames decoded at once; colors: of `sketch.fitted`.
    """
    engine: Engine
    latents: ms.Tensor
    chunk: int
    colors: np.ndarray

    def __call__(self):
        """Return them decoded: (T, H, W, 3) uint8."""
        return _decoded(self.engine, self.latents, self.chunk)

    def sketch(self):
        """Return them roughly, without the decoder, a pixel for each latent: (T, h, w, 3) uint8."""
        return sketch.drawn(ops.fetch(self.latents), self.colors)


def image_record(image):
    """Return what run.json says of an image that is given as such: its file's name, if it has one.

    The hash is of its pixels as RGBA, or of an array.
    """
    name = getattr(image, "filename", None)
    pixels = image if isinstance(image, np.ndarray) else image.convert("RGBA")
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return {"file": Path(os.fsdecode(name)).name if name else None, "pixels": f"sha256:{digest}"}


def run_record(engine, orbit, options):
    """Return what run.json says of a run before it is made; options: `SampleOptions.of_model`."""
    spec = engine.spec
    low, high = options.guidance_range
    run = {"model": spec.name, "seed": options.seed, "steps": options.steps,
           "sampler": options.sampler,
           "guidance": {"kind": spec.sampling.guidance, "min": low, "max": high},
           "cond_aug": options.cond_aug, "decode_chunk": options.decode_chunk,
           "dtype": engine.precision, "device": ops.target(),
           "versions": {"sv3d-mindspore": __version__, "python": platform.python_version(),
                        "mindspore": ms.__version__, "numpy": np.__version__}}
    if engine.is_random:
        run["checkpoint"] = {"file": None, "hash": engine.weights_hash()}
    elif engine.weights is not None:
        run["checkpoint"] = {"file": engine.weights.path.name, "hash": engine.weights_hash()}
        if "lora" in engine.weights.metadata:
            run["checkpoint"]["lora"] = engine.weights.metadata["lora"]
        if AVERAGE in engine.weights.metadata:
            run["checkpoint"][AVERAGE] = engine.weights.metadata[AVERAGE]
    if orbit is not None:
        run["orbit"] = {"azimuths_deg": orbit.azimuths_deg.tolist(),
                        "elevations_deg": orbit.elevations_deg.tolist(),
                        "azimuth_sign": orbit.sign}
        if not spec.is_posed:
            run["elevation"] = "unknown"        # the network chooses it
    else:
        run.update(fps_id=options.fps, motion_bucket_id=options.motion_bucket)
    return {**run, "settings": asdict(spec)}


def _size():
    return argument('height and width in overrides', '--size')


def _smaller():
    """Return the remedies for too little memory while sampling."""
    return (f"use {argument('sequential=True', '--sequential-cfg')}, {argument('dtype')} fp16,"
            f" fewer {argument('views', '--num-frames')} or a smaller {_size()}")


def _decoded(engine, z, chunk):
    """Return latents as frames (T, H, W, 3) uint8; a chunk that does not fit is halved."""
    with engine.weights_loaded("first_stage_model"):
        while True:
            try:
                frames = engine.decode(z, chunk)
                break
            except (MemoryError, RuntimeError) as error:
                if chunk == 1 or not of_memory(error):
                    raise
                chunk //= 2
    return preprocessing.from_network(_checked(frames, "decode", engine, "first_stage_model"))


def _checked(array, stage, engine, part):
    """Return the result of a stage that used one of `Engine.PARTS`; raise if it is not finite."""
    return require_finite(array, stage, engine.weights, getattr(engine, part).parameters_dict())
