"""Builds the parts of a feed-forward network's training from its recipe; says what it would train.
"""
import numpy as np

from sgm.autodecoder.perceptual import MultiScaleGradients
from sgm.config.yaml_reader import ConfigError
from sgm.feedforward.networks import build_network
from sgm.feedforward.reconstructor import RANDOM, load_lrm_of
from sgm.feedforward.training_loss import ReconstructionLoss
from sgm.train.feedforward.feedforward_batches import ViewsOfInputs
from sgm.train.feedforward.lpips import load_lpips
from sgm.train.objects.masked_views import MaskedViews
from sgm.train.schedule import described_rate

GB = 1e9


def check_feedforward_fit(spec, recipe):
    """Raise ConfigError naming what a recipe wants and the network of an LrmSpec cannot do."""
    if not spec.upright:
        raise ConfigError(f"upright: found false of {spec.name}, expected true: only networks that"
                          " are told the elevation of their input are trained here")
    if recipe.hold_out and not recipe.val:
        raise ConfigError(f"hold_out: found {recipe.hold_out} without val, expected sets of other"
                          " objects in val, which are measured in the views held out")


def build_feedforward(spec, recipe, init, progress, together):
    """Return (Reconstructor, batches, held-out batches or None, a sentence on the weights).

    init: weights of the very network, or None; progress: not used, as nothing here takes long;
    together: batches that make one step. Raises InputError.
    """
    clips = MaskedViews(recipe.data)
    trained, held = clips.split(recipe.hold_out)
    batches, held_out = ViewsOfInputs(recipe, spec, clips, trained, trained, together), None
    if recipe.val:
        others = MaskedViews(recipe.val, key="val")
        inputs, targets = others.split(recipe.hold_out)
        held_out = ViewsOfInputs(recipe, spec, others, inputs,
                                 targets if recipe.hold_out else inputs, still=True)
    model = load_lrm_of(spec, init or RANDOM, recipe.seed)
    return model, batches, held_out, str(init or "random")


def feedforward_objective(model, recipe, batches):
    """Return the loss, a Cell."""
    perceptual = load_lpips(recipe.lpips) if recipe.lpips else MultiScaleGradients(batches.side)
    weights = recipe.mask_weight, recipe.perceptual_weight, recipe.variation_weight
    return ReconstructionLoss(model.network, model.spec, perceptual, recipe.batch, recipe.views,
                              batches.side, recipe.samples, weights)


def count_inputs(spec, recipe):
    """Return how many objects a recipe trains on. Raises InputError."""
    return len(MaskedViews(recipe.data))


def describe_feedforward(spec, recipe, objects, world):
    """Yield lines (name, text) on what a run would train; objects: how many, or None."""
    triplane, each = spec.triplane, recipe.batch * recipe.accumulate * world
    parts = {}
    for name, parameter in build_network(spec).parameters_dict().items():
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + int(np.prod(parameter.shape))
    total = sum(parts.values())
    yield "model", (f"{spec.name}, one view of {spec.image_size}^2 pixels to planes of"
                    f" {triplane.features_side}^2 x {triplane.channels}, {total / 1e6:.2f} M"
                    f" parameters ({parts['encoder'] / 1e6:.2f} M encoder)")
    yield "trains", f"{recipe.task}: all"
    stages = "data's size" if not recipe.stages else " -> ".join(map(str, recipe.stages))
    square = recipe.crop or "all"
    yield "steps", (f"{recipe.steps}, each of {each} objects, {recipe.views} squares of {square}"
                    f" pixels of each, {recipe.samples} samples a ray; views of {stages} pixels")
    kind = "LPIPS" if recipe.lpips else "multi-scale gradients"
    yield "loss", (f"color, opacity x {recipe.mask_weight:g}, {kind} x"
                   f" {recipe.perceptual_weight:g} from {recipe.perceptual_from:.0%} of the steps"
                   f" on, total variation x {recipe.variation_weight:g}")
    yield "input", (f"camera noise {recipe.camera_noise:g}, {recipe.recentered:.0%} recentered")
    if objects:
        yield "data", f"{objects} objects, each seen {recipe.steps * each / objects:.1f} times"
    yield "rate", described_rate(recipe)
    yield "files", (f"state {4 * total * 4 / GB:.2f} GB, weights {total * 4 / GB:.2f} GB, every"
                    f" {recipe.save_every} steps, {recipe.keep} kept"
                    + " and the best" * bool(recipe.val))
