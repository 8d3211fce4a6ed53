"""Builds the parts of an autodecoder's training from its recipe, and says what it would train."""
import numpy as np

from sgm.autodecoder.latents.edm import DenoisingLoss
from sgm.autodecoder.latents.latent_normalization import clipped_share, robust_normalization
from sgm.autodecoder.noted import HELD_OBJECTS, HOLD_OUT, NAMES
from sgm.autodecoder.object_model import VOXELS, load_objects, parameter_count
from sgm.autodecoder.perceptual import perceptual_loss
from sgm.autodecoder.view_loss import ViewLoss
from sgm.config.yaml_reader import ConfigError
from sgm.train.batches import val_count
from sgm.train.data import DataError
from sgm.train.objects.masked_views import MaskedViews
from sgm.train.objects.object_batches import LatentBatches, ViewSquares
from sgm.train.objects.object_conditions import read_conditions
from sgm.train.schedule import described_rate

GB = 1e9


def check_object_fit(spec, recipe):
    """Raise ConfigError naming what a recipe wants and a model of its spec cannot do."""
    if recipe.val:
        raise ConfigError(f"val: found {recipe.val[0]}, expected nothing: what is not trained on"
                          " has no embedding; hold_out=3 measures on every third view")
    if recipe.task == "latent_diffusion" and recipe.data:
        raise ConfigError(f"data: found {recipe.data[0]}, expected nothing: the latents are those"
                          " of the objects in --init")
    kind = spec.diffusion.condition.kind
    if recipe.task == "latent_diffusion" and bool(recipe.conditions) != bool(kind):
        raise ConfigError(
            f"conditions: found {recipe.conditions or 'none'}, expected"
            f" {f'a file for diffusion.condition.kind {kind}' if kind else 'none'}: the two belong"
            " together")
    if not (recipe.mask_weight or recipe.color_weight) and recipe.task == "autodecoder":
        raise ConfigError("color_weight: found 0 with mask_weight 0, expected one of them above 0")
    if recipe.hold_out and spec.learned_cameras and recipe.task == "autodecoder":
        raise ConfigError(f"hold_out: found {recipe.hold_out}, expected 0 with learned_cameras: the"
                          " cameras of held-out views would not be learned")


def build_objects(spec, recipe, init, progress, together):
    """Return (ObjectModel, batches, held-out batches or None, a sentence on the weights).

    init: weights of stage 1 (or of both), or None; progress(iterable, description) wraps long
    loops; together: batches that make one step. Raises InputError.
    """
    if recipe.task == "autodecoder":
        views = training_views(spec, recipe)
        poses = views.num_frames * (1 if views.shared else len(views))
        if spec.learned_cameras not in (0, poses):
            raise ConfigError(f"learned_cameras: found {spec.learned_cameras}, expected 0 or"
                              f" {poses}, the cameras of the data")
        trained, held = views.split(recipe.hold_out)
        model, _ = load_objects(spec, init, False, recipe.seed)
        model.notes = {HOLD_OUT: str(recipe.hold_out), NAMES: views.names_hash()}
        batches, held_out = ViewSquares(recipe, model, views, trained), None
        if recipe.hold_out:
            held_out = ViewSquares(recipe, model, views, held, still=True)
        return model, batches, held_out, str(init or "random")
    if init is None:
        raise ConfigError("--init is missing: latents are those of a trained autodecoder; give the"
                          " averaged.safetensors of its run")
    if recipe.hold_out and spec.objects < 2:
        raise ConfigError(f"hold_out: found {recipe.hold_out}, expected 0 for a single object")
    model, drawn = load_objects(spec, init, True, recipe.seed)
    model.notes[HELD_OBJECTS] = str(recipe.hold_out)
    latents = model.latents_of(range(spec.objects), progress=progress)
    model.release()
    settings = spec.diffusion
    tokens = None
    if recipe.conditions:
        tokens = read_conditions(recipe.conditions, spec, model.notes.get(NAMES))
    if drawn:                           # a denoiser that was trained before keeps its own
        try:
            model.keep_normalization(
                robust_normalization(latents, settings.latent_std, settings.clip))
        except ValueError as error:
            raise DataError(f"--init {init}: {error}, expected latents of different objects; train"
                            " the autodecoder longer") from None
    origin = (f"{init}{'; random: denoiser' * drawn};"
              f" {clipped_share(latents, model.normalization):.2g} of the latents are clipped")
    normalized = model.normalization.apply(latents)
    held = np.zeros(len(normalized), bool)
    if recipe.hold_out:
        held = np.arange(len(normalized)) % recipe.hold_out == 0

    def batches(rows, together, drop):
        return LatentBatches(recipe, normalized[rows], together,
                             None if tokens is None else tokens[rows], drop)
    held_out = None
    if recipe.hold_out:
        held_out = batches(held, val_count(recipe, normalized[held]), 0.0)
    return model, batches(~held, together, recipe.drop_condition), held_out, origin


def training_views(spec, recipe):
    """Return the MaskedViews of a recipe's data.

    Raises DataError, also if they are of another number of objects than there are embeddings.
    """
    views = MaskedViews(recipe.data, spec.size)
    if len(views) != spec.objects:
        raise DataError(f"objects: found {spec.objects} of {spec.name}, and {len(views)} in the"
                        f" data, expected the same; give --model-set objects={len(views)}")
    return views


def objective_of(model, recipe, batches):
    """Return the loss of a recipe's task, a Cell."""
    if recipe.task == "latent_diffusion":
        return DenoisingLoss(model.denoiser)
    return ViewLoss(model, perceptual_loss(batches.side, recipe.vgg), recipe.batch, batches.count,
                    batches.side, recipe.mask_weight, batches.clips.shared, recipe.color_weight)


def count_objects(spec, recipe):
    """Return how many objects a recipe trains on. Raises InputError."""
    return spec.objects if recipe.task == "latent_diffusion" else len(training_views(spec, recipe))


def describe_objects(spec, recipe, objects, world):
    """Yield lines (name, text) on what a run would train; objects: how many, or None."""
    second = recipe.task == "latent_diffusion"
    count = parameter_count(spec, second)
    total = sum(count.values())
    trained = count["denoiser"] if second else total
    each = recipe.batch * recipe.accumulate * world
    volume = spec.volume
    yield "model", (f"{spec.name}, {spec.objects} objects, latents of 8^3 x {volume.latent_width},"
                    f" volumes of {volume.side}^3, {total / 1e6:.2f} M parameters")
    yield "trains", f"{recipe.task}: {trained / 1e6:.2f} M parameters"
    what = f"{each} latents" if second else (
        f"{each} objects, {recipe.views} squares of {recipe.crop or spec.size} pixels of each,"
        f" {spec.samples} samples a ray")
    yield "steps", f"{recipe.steps}, each of {what}"
    if not second:
        colors = f"VGG-19 of {recipe.vgg}" if recipe.vgg else "multi-scale gradients"
        yield "loss", (f"{colors} x {recipe.color_weight:g}, opacity x {recipe.mask_weight:g}"
                       if recipe.color_weight else f"opacity x {recipe.mask_weight:g} alone")
    if recipe.sheet_every and not (second or recipe.hold_out):
        yield "sheets", "none, as no views are held out"
    if objects:
        yield "data", f"{objects} objects, each seen {recipe.steps * each / objects:.1f} times"
    yield "rate", described_rate(recipe)
    yield "files", (f"state {(total + 3 * trained) * 4 / GB:.2f} GB, weights"
                    f" {total * 4 / GB:.2f} GB, every {recipe.save_every} steps, {recipe.keep}"
                    " kept" + " and the best" * bool(recipe.hold_out))
    if second:
        held = spec.objects * VOXELS * volume.latent_width * 4
        yield "memory", f"latents {held / GB:.2f} GB on the host"
