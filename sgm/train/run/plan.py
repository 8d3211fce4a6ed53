"""Estimates parameters and memory of a training run before anything is loaded (--dry-run)."""
import math
import re
from itertools import pairwise

from sgm.checkpoints.lora_fusion import DOWN, UP
from sgm.checkpoints.original_keys import FIRST_STAGE, UNET, used_shapes
from sgm.config.recipe import OBJECT_TASKS
from sgm.config.yaml_reader import ConfigError
from sgm.models.architecture import RESIDUAL, TRANSFORMER, unet_layers
from sgm.train.muon import is_matrix
from sgm.train.objects.tasks import PARTS, check_task
from sgm.train.schedule import described_rate
from sgm.train.trainable import is_kept, is_trained

GB = 1e9
# Values that the backward pass needs, per row and channel, found in the graphs of full-width blocks
# as traced for an NPU (tests/support/gradient_memory.py: what is in memory after the forward
# pass); they are right within 10 % for each of SV3D's blocks with attention.
# A residual layer in space and in time: per channel of its input, and of its output.
RESIDUAL_IN, RESIDUAL_OUT = 4, 6
# A transformer in space and in time, at each precision: norms and GELU compute in float32, whose
# values are as large as two of bf16.
TRANSFORMERS = {"fp32": 77, "fp16": 89, "bf16": 120}
# What is in memory besides, next to the gradient of the scores, during the gradient of one block.
WORKING = {"fp32": 20, "fp16": 20, "bf16": 28}
# The layers that `sgm.train.lora_layers.attach` adapts.
_ADAPTED = re.compile(r"\.(transformer_blocks|time_stack)\.0\."
                      r"(attn1\.to_(q|k|v|out\.0)|attn2\.to_(v|out\.0)|ff(_in)?\.net\.(0\.proj|2))\.weight$")


def check_fit(spec, recipe):
    """Raise ConfigError naming what this recipe wants and the model of this spec cannot do."""
    check_task(spec, recipe)
    if recipe.task in OBJECT_TASKS:
        return
    if recipe.task != "diffusion":
        if spec.vae.decoder == "temporal":
            raise ConfigError(f"task: found {recipe.task} for {spec.name}, whose decoder is over"
                              " time, expected a model with an image decoder"
                              " (--model-set vae.decoder=image)")
        return
    if recipe.front_weight < 1 and not spec.is_orbit:
        raise ConfigError(f"front_weight: found {recipe.front_weight:g}, expected 1 for"
                          f" {spec.name}, a model of videos")
    if recipe.frames and not 2 <= recipe.frames <= spec.num_frames:
        raise ConfigError(f"frames: found {recipe.frames}, expected 2 to {spec.num_frames}, the"
                          f" frames of a clip of {spec.name}, or 0 for all of them")


def shapes_of(spec, recipe):
    """Return {published key: shape} of the model, with the LoRA's if the recipe trains one."""
    shapes = used_shapes(spec)
    if recipe.trains == "lora":
        for key in [key for key in shapes if _ADAPTED.search(key)]:
            out, into = shapes[key]
            layer = key.removesuffix(".weight")
            shapes[layer + DOWN] = recipe.lora_rank, into
            shapes[layer + UP] = out, recipe.lora_rank
    return shapes


def counts(spec, recipe):
    """Return {"all", "UNet", "decoder", "trained", "matrices", "kept": number of parameters}.

    "matrices" are those trained ones that Muon updates.
    """
    shapes = shapes_of(spec, recipe)

    def total(belongs):
        return sum(math.prod(shape) for key, shape in shapes.items() if belongs(key))

    def trained(key):
        return is_trained(recipe, spec, key)

    def turned(key):
        return recipe.optimizer == "muon" and trained(key) and is_matrix(key, shapes[key])

    return {"all": total(lambda key: True), "UNet": total(lambda key: key.startswith(UNET)),
            "decoder": total(lambda key: key.startswith(FIRST_STAGE)),
            "trained": total(trained), "matrices": total(turned),
            "kept": total(lambda key: is_kept(recipe, spec, key))}


def memory(spec, recipe):
    """Return {what: bytes} on the device during a training step of the UNet.

    The activations are an estimate.
    """
    precision = "bf16" if recipe.precision == "auto" else recipe.precision
    count, wide = counts(spec, recipe), 4 if precision == "fp32" else 2
    trained = count["trained"]
    height, width = spec.height // spec.vae_factor, spec.width // spec.vae_factor
    frames = (recipe.frames or spec.num_frames) * recipe.batch
    blocks = block_memory(spec.unet, height, width, frames, precision).values()
    # With recomputation only what goes from block to block is kept, and the insides of one block at
    # a time.
    inside = 0 if recipe.recompute else sum(kept for kept, _, _ in blocks)
    activations = wide * (sum(passed for _, _, passed in blocks) + inside
                          + max(working + kept * recipe.recompute for kept, working, _ in blocks))
    found = {"weights": (count["all"] - count["UNet"]) * 4 + count["UNet"] * wide,
             "float32 weights": trained * 4 if wide == 2 else 0, "gradients": trained * (4 + wide),
             "moments": (2 * trained - count["matrices"]) * 4, "moving average": trained * 4,
             "activations (estimate)": activations}
    return {name: size for name, size in found.items() if size}


def block_memory(unet, height, width, frames, precision):
    """Return the numbers of values that the blocks of a UNetSpec need for a gradient.

    They are {published key of a residual layer: (kept inside, besides during its gradient, of the
    output)}, for that many frames of latents height x width; the transformer that follows a
    residual layer is counted with it.
    """
    layers, found = unet_layers(unet), {}
    for layer, following in pairwise(layers):
        if layer.kind != RESIDUAL:
            continue
        attends, wide = following.kind == TRANSFORMER, layer.width_out
        pixels = (height >> layer.level) * (width >> layer.level)
        rows = frames * pixels
        # Only half precision has an attention that keeps no scores.
        scores = 0
        if attends and precision == "fp32":
            scores = rows * pixels * wide // unet.num_head_channels
        inside = (RESIDUAL_OUT + attends * TRANSFORMERS[precision]) * wide
        kept = rows * (RESIDUAL_IN * layer.width_in + inside) + scores
        found[layer.key] = kept, rows * WORKING[precision] * wide + scores, rows * wide
    return found


def describe(spec, recipe, clips=None, world=1):
    """Yield lines (name, text) on the run. clips: how many it is trained on, if that is known."""
    if recipe.task in OBJECT_TASKS:
        yield from PARTS[recipe.task].describe(spec, recipe, clips, world)
        return
    count = counts(spec, recipe)
    share = 100 * count["trained"] / count["all"]
    each = recipe.batch * recipe.accumulate * world
    what = "clips" if recipe.task == "diffusion" else "views"
    yield "model", (f"{spec.name}, {spec.num_frames} frames of {spec.height} x {spec.width},"
                    f" {count['all'] / 1e6:.1f} M parameters")
    yield "trains", (f"{recipe.trains} of the {recipe.task}: {count['trained'] / 1e6:.2f} M"
                     f" parameters ({share:.1f} %)")
    split = f"{recipe.batch} at once, {recipe.accumulate} times"
    split += f", on {world} devices" * (world > 1)
    some = f"{recipe.frames} frames of " * bool(recipe.frames)
    yield "steps", f"{recipe.steps}, each of {some}{each} {what} ({split})"
    if clips:
        yield "data", f"{clips} clips, each seen {recipe.steps * each / clips:.1f} times"
    yield "rate", described_rate(recipe)
    yield "precision", recipe.precision + (", blocks computed twice" if recipe.recompute else "")
    state = (count["kept"] + 3 * count["trained"]) * 4
    yield "files", (f"state {state / GB:.2f} GB, weights {count['kept'] * 4 / GB:.2f} GB, every"
                    f" {recipe.save_every} steps, {recipe.keep} kept"
                    + " and the best" * bool(recipe.val))
    if recipe.task == "diffusion":
        parts = memory(spec, recipe)
        yield "memory", (f"about {sum(parts.values()) / GB:.1f} GB on an NPU ("
                         + ", ".join(f"{name} {size / GB:.2f}" for name, size in parts.items())
                         + "); a CPU takes several times the activations")
