"""What a training would take, told before anything is loaded: parameters, memory, the course of the run."""
import math
import re
from itertools import pairwise

from sgm.checkpoints.lora_fusion import DOWN, UP
from sgm.checkpoints.original_keys import FIRST_STAGE, UNET, used_shapes
from sgm.config.yaml_reader import ConfigError
from sgm.models.architecture import RESIDUAL, TRANSFORMER, unet_layers
from sgm.train.trainable import is_kept, is_trained

GB = 1e9
# Values that the backward pass needs, per row and channel, found in the graphs of full-width blocks as traced for an NPU
# (tests/support/gradient_memory.py; what lives where the forward pass ends), and right within 10 % for each of SV3D's attending blocks.
# A residual block in space and in time: of its input's width, and of its output's.
RESIDUAL_IN, RESIDUAL_OUT = 4, 6
# A transformer in space and in time, at each precision: norms and GELU compute in float32, which takes two values of bf16.
TRANSFORMERS = {"fp32": 77, "fp16": 89, "bf16": 120}
# What lives besides while the gradient of one block is made, next to the gradient of its scores.
WORKING = {"fp32": 20, "fp16": 20, "bf16": 28}
# The layers that `sgm.train.lora_layers.attach` adapts.
_ADAPTED = re.compile(r"\.(transformer_blocks|time_stack)\.0\."
                      r"(attn1\.to_(q|k|v|out\.0)|attn2\.to_(v|out\.0)|ff(_in)?\.net\.(0\.proj|2))\.weight$")


def check_fit(spec, recipe):
    """Raise ConfigError naming what this recipe asks that the model of this spec cannot give."""
    if recipe.task != "diffusion":
        if spec.vae.decoder == "temporal":
            raise ConfigError(f"task: found {recipe.task} for {spec.name}, whose decoder is over time, expected a model with"
                              " an image decoder (--model-set vae.decoder=image)")
        return
    if recipe.front_weight < 1 and not spec.is_orbit:
        raise ConfigError(f"front_weight: found {recipe.front_weight:g}, expected 1 for {spec.name}, a model of videos")
    if recipe.frames and not 2 <= recipe.frames <= spec.num_frames:
        raise ConfigError(f"frames: found {recipe.frames}, expected 2 to {spec.num_frames}, the frames of a clip of"
                          f" {spec.name}, or 0 for all of them")


def shapes_of(spec, recipe):
    """{published key: shape} of the model, with the LoRA's if the recipe trains one."""
    shapes = used_shapes(spec)
    if recipe.trains == "lora":
        for key in [key for key in shapes if _ADAPTED.search(key)]:
            out, into = shapes[key]
            layer = key.removesuffix(".weight")
            shapes[layer + DOWN], shapes[layer + UP] = (recipe.lora_rank, into), (out, recipe.lora_rank)
    return shapes


def counts(spec, recipe):
    """{"all", "UNet", "trained", "kept": number of parameters}."""
    shapes = {key: math.prod(shape) for key, shape in shapes_of(spec, recipe).items()}
    return {"all": sum(shapes.values()), "UNet": sum(size for key, size in shapes.items() if key.startswith(UNET)),
            "decoder": sum(size for key, size in shapes.items() if key.startswith(FIRST_STAGE)),
            "trained": sum(size for key, size in shapes.items() if is_trained(recipe, spec, key)),
            "kept": sum(size for key, size in shapes.items() if is_kept(recipe, spec, key))}


def memory(spec, recipe):
    """{what: bytes} on the device during a step of the UNet's training; what passes from layer to layer is estimated."""
    precision = "bf16" if recipe.precision == "auto" else recipe.precision
    count, wide = counts(spec, recipe), 4 if precision == "fp32" else 2
    trained = count["trained"]
    blocks = block_memory(spec.unet, spec.height // spec.vae_factor, spec.width // spec.vae_factor,
                          (recipe.frames or spec.num_frames) * recipe.batch, precision).values()
    # recomputed, only what goes from block to block is kept, and the insides of one block at a time
    inside = 0 if recipe.recompute else sum(kept for kept, _, _ in blocks)
    activations = wide * (sum(passed for _, _, passed in blocks) + inside
                          + max(working + kept * recipe.recompute for kept, working, _ in blocks))
    found = {"weights": count["all"] * 4 if wide == 4 else (count["all"] - count["UNet"]) * 4 + count["UNet"] * 2,
             "float32 weights": trained * 4 if wide == 2 else 0, "gradients": trained * (4 + wide),
             "AdamW moments": trained * 8, "moving average": trained * 4, "activations (estimate)": activations}
    return {name: size for name, size in found.items() if size}


def block_memory(unet, height, width, frames, precision):
    """{published key of a residual layer: (values kept inside, values besides during its gradient, values of the output)}
    of a UNetSpec for that many frames of latents; the transformer that follows a residual layer counts with it."""
    layers, found = unet_layers(unet), {}
    for layer, following in pairwise(layers):
        if layer.kind != RESIDUAL:
            continue
        attends, wide = following.kind == TRANSFORMER, layer.width_out
        pixels = (height >> layer.level) * (width >> layer.level)
        rows = frames * pixels
        # only half precision has an attention that keeps no scores
        scores = rows * pixels * wide // unet.num_head_channels if attends and precision == "fp32" else 0
        kept = rows * (RESIDUAL_IN * layer.width_in + (RESIDUAL_OUT + attends * TRANSFORMERS[precision]) * wide) + scores
        found[layer.key] = kept, rows * WORKING[precision] * wide + scores, rows * wide
    return found


def describe(spec, recipe, clips=None, world=1):
    """Lines (name, text) on the run. clips: how many it is trained on, if that is known."""
    count = counts(spec, recipe)
    share = 100 * count["trained"] / count["all"]
    each = recipe.batch * recipe.accumulate * world
    what = "clips" if recipe.task == "diffusion" else "views"
    yield "model", (f"{spec.name}, {spec.num_frames} frames of {spec.height} x {spec.width}, {count['all'] / 1e6:.1f} M"
                    " parameters")
    yield "trains", f"{recipe.trains} of the {recipe.task}: {count['trained'] / 1e6:.2f} M parameters ({share:.1f} %)"
    split = f"{recipe.batch} at once, {recipe.accumulate} times" + f", on {world} devices" * (world > 1)
    some = f"{recipe.frames} frames of " * bool(recipe.frames)
    yield "steps", f"{recipe.steps}, each of {some}{each} {what} ({split})"
    if clips:
        yield "data", f"{clips} clips, each seen {recipe.steps * each / clips:.1f} times"
    yield "rate", f"{recipe.lr:g}, {recipe.schedule}, {recipe.warmup} steps of warm-up; decay {recipe.weight_decay:g}"
    yield "precision", recipe.precision + (", blocks computed twice" if recipe.recompute else "")
    state = (count["kept"] + 3 * count["trained"]) * 4
    yield "files", (f"state {state / GB:.2f} GB, weights {count['kept'] * 4 / GB:.2f} GB, every {recipe.save_every} steps,"
                    f" {recipe.keep} kept{' and the best' if recipe.val else ''}")
    if recipe.task == "diffusion":
        parts = memory(spec, recipe)
        yield "memory", (f"about {sum(parts.values()) / GB:.1f} GB on an NPU ("
                         + ", ".join(f"{name} {size / GB:.2f}" for name, size in parts.items())
                         + "); a CPU takes several times the activations")
