"""From an image to views: load a model, condition, sample, decode, with the weights of one stage in memory at a time."""
import platform
from pathlib import Path

import mindspore as ms
import numpy as np

from sgm import ops
from sgm.checkpoints.diffusers.reader import open_folder
from sgm.checkpoints.identify import adapt_spec
from sgm.checkpoints.loading import check_weights
from sgm.checkpoints.lora_fusion import fuse
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import DATA
from sgm.diffusion import guidance
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

DTYPES = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}
SMALLER = "use --sequential-cfg, --dtype fp16, fewer --num-frames or a smaller --size"
EMBEDDED = ("sv3d_tiny", DATA / "assets" / "sv3d_tiny.safetensors")


def load_model(model="sv3d_tiny", ckpt=None, dtype="fp32", overrides=(), lora=None):
    """The engine of a model with its weights.

    model: a name, one of our YAML files, or one of the reference's. ckpt: .safetensors (published or ours), .ckpt, or a
    diffusers folder; None draws random weights. dtype: precision of the UNet, "fp32", "fp16" or "bf16"; the rest runs in
    float32. lora: a LoRA file of train.py for those weights. Raises ConfigError, CheckpointError.
    """
    if dtype not in DTYPES:
        raise PipelineError(f"--dtype: found {dtype!r}, expected one of {', '.join(DTYPES)}")
    if dtype == "bf16" and ops.target() == "CPU":
        raise PipelineError("--dtype bf16: MindSpore has no bfloat16 kernels for a CPU; use fp32")
    spec = load_spec(model, overrides)
    if ckpt is None:
        engine = Engine(spec, dtype=DTYPES[dtype])
        initialize(engine, seed=0)
        return engine
    if Path(ckpt).is_dir():
        weights, spec = open_folder(ckpt, spec)
    else:
        weights = open_checkpoint(ckpt)
        spec = adapt_spec(spec, weights)
    if lora is not None:
        weights = fuse(weights, lora)
    engine = Engine(spec, weights, DTYPES[dtype])
    check_weights(engine, weights)
    return engine


def generate(engine, image, orbit=None, seed=23, steps=None, sampler=None, guidance_range=None, cond_aug=None, fps=6,
             motion_bucket=127, decode_chunk=7, sequential=False, keep_graphs=True, on_step=None, on_stage=None):
    """An image to `Views`.

    image: (H, W, 4) uint8 of the model's size from `sgm.views.preprocessing.prepare`, or a PIL image, which goes through it first.
    orbit: an `Orbit` of as many views as shall be made (default static, elevation 10); svd uses none.
    guidance_range: (min, max). cond_aug: noise on the condition image. fps, motion_bucket: svd only.
    sequential: half the memory, one side of the guidance after the other. keep_graphs: the next image then needs no
    compilation; False gives the memory of each stage back before the next one. on_step(i, steps, estimate) with
    estimate() -> frames of the current estimate; on_stage(name, seconds, peak_gb).
    Raises PipelineError for an argument out of bounds, for want of memory and when a stage's result is not finite, and
    CheckpointError when that is because its weights are not.
    """
    spec, options = engine.spec, engine.spec.sampling
    if not isinstance(image, np.ndarray):
        image = preprocessing.prepare(image, (spec.height, spec.width), cut_out=spec.is_orbit)[0]
    if spec.is_orbit:
        orbit = orbit or Orbit.static(num_frames=spec.num_frames)
    num_frames = len(orbit) if spec.is_orbit else spec.num_frames
    steps, sampler = options.steps if steps is None else steps, sampler or options.sampler
    low, high = guidance_range or (options.min_scale, options.max_scale)
    cond_aug = spec.condition.cond_aug if cond_aug is None else cond_aug
    check_request(spec, image, sampler, seed=seed, steps=steps, guidance_range=(low, high), cond_aug=cond_aug, fps=fps,
                  motion_bucket=motion_bucket, decode_chunk=decode_chunk)
    rng = np.random.RandomState(seed)  # a stream that numpy never changes; image noise first, as in the reference
    pixels = preprocessing.to_network(images.composite(image))
    cond_noise = rng.standard_normal(pixels.shape).astype(np.float32)
    factor = spec.vae_factor
    noise = rng.standard_normal((num_frames, spec.vae.z_channels, spec.height // factor, spec.width // factor))
    scalars = {"fps_id": fps, "motion_bucket_id": motion_bucket}
    if spec.is_orbit:
        scalars = {"polars_rad": orbit.polars_rad, "azimuths_rad": orbit.azimuths_rad} if spec.is_posed else {}
    stages = StageTimer(on_stage)

    with stages("condition"), memory_errors("condition", "lower --size"), engine.holding("conditioner"):
        c, uc = engine.condition(pixels, cond_noise, cond_aug, num_frames, **scalars)
        for name, value in c.items():
            _checked(ops.fetch(value), f"condition ({name})", engine, "conditioner")
    if not keep_graphs:
        engine.release()

    def after_step(i, x, denoised):
        if on_step:
            on_step(i, steps, lambda: _decoded(engine, denoised, decode_chunk))

    with stages("sample"), memory_errors("sample", SMALLER), engine.holding("model"):
        scale = guidance.scales(options.guidance, low, high, num_frames)
        z = engine.sample(noise.astype(np.float32), c, uc, steps, sampler, scale, sequential, after_step)
        z = _checked(ops.fetch(z), "sample", engine, "model")
    if not keep_graphs:
        engine.release()

    with stages("decode"), memory_errors("decode", "lower --size"):
        frames = _decoded(engine, z, decode_chunk)
    if spec.is_orbit:
        frames[-1] = images.composite(image)
    run = {"model": spec.name, "seed": seed, "steps": steps, "sampler": sampler,
           "guidance": {"kind": options.guidance, "min": low, "max": high}, "cond_aug": cond_aug,
           "decode_chunk": decode_chunk, "dtype": str(engine.dtype), "device": ops.target(),
           "versions": {"python": platform.python_version(), "mindspore": ms.__version__, "numpy": np.__version__},
           "stages": stages.log}
    if engine.weights is not None:
        run["checkpoint"] = {"file": engine.weights.path.name, "hash": engine.weights_hash()}
        if "lora" in engine.weights.metadata:
            run["checkpoint"]["lora"] = engine.weights.metadata["lora"]
    if spec.is_orbit:
        run["orbit"] = {"azimuths_deg": orbit.azimuths_deg.tolist(), "elevations_deg": orbit.elevations_deg.tolist(),
                        "azimuth_sign": orbit.sign}
    else:
        run.update(fps_id=fps, motion_bucket_id=motion_bucket)
    return Views(frames, image, orbit if spec.is_orbit else None, run)


def _decoded(engine, z, chunk):
    """Latents to (T, H, W, 3) uint8; a chunk that does not fit is halved."""
    with engine.holding("first_stage_model"):
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
    """The finite result of a stage that used the weights of one of `Engine.PARTS`."""
    return require_finite(array, stage, engine.weights, getattr(engine, part).parameters_dict())
