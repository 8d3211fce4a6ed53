"""Builds the parts of a run from its recipe."""
from dataclasses import replace
from pathlib import Path

from sgm.config.recipe import OBJECT_TASKS
from sgm.config.yaml_reader import ConfigError
from sgm.train.batches import DiffusionBatches, ViewBatches, val_count
from sgm.train.clip_whitening import whiten_image_tokens
from sgm.train.data import cache_memo, find_data, open_data, read_clips
from sgm.train.decoder_targets import DecoderBatches, Predictions
from sgm.train.initial_weights import start
from sgm.train.objects.tasks import PARTS
from sgm.train.run.plan import check_fit
from sgm.train.trainer import Trainer


def build(spec, recipe, init, progress, rank=0, world_size=1):
    """Return (Trainer, a sentence on where its weights come from).

    `init`: see `sgm.train.initial_weights.start`; progress(iterable, description) wraps long loops;
    rank, world_size: see `Trainer`. Encodes the clips that are not in the cache yet. Raises
    InputError.
    """
    check_fit(spec, recipe)
    _check_init(recipe, init)
    seen = None
    if recipe.task in OBJECT_TASKS:
        engine, batches, held_out, origin = PARTS[recipe.task].build(
            spec, recipe, init, progress, recipe.accumulate * world_size)
    elif recipe.task == "autoencoder":
        (clips, _), (val, _) = read_clips(recipe, spec, cache_memo(recipe))
        batches = ViewBatches(recipe, clips, spec)  # before the weights: a wrong crop fails at once
        held_out = val and ViewBatches(recipe, val, spec)
        engine, origin = start(spec, init, recipe.seed)
        if init is None:
            whiten_image_tokens(engine, clips)
    elif recipe.task == "decoder":
        found = find_data(recipe, spec, progress)
        engine, origin = start(spec, init, recipe.seed)
        batches, held_out = (
            examples and decoder_batches(recipe, engine, examples, progress)
            for examples in open_data(recipe, engine, progress, rank, world_size, found))
    else:
        found = find_data(recipe, spec, progress)   # before the weights, of which there are many
        engine, origin = start(spec, init, recipe.seed)
        examples, val = open_data(recipe, engine, progress, rank, world_size, found)
        batches = DiffusionBatches(recipe, examples, recipe.accumulate * world_size)
        held_out, seen = as_sampled(recipe, examples, val)
    return Trainer(engine, recipe, batches, held_out, rank, world_size, seen), origin


def as_sampled(recipe, examples, val):
    """Return the batches of validation and as many of training clips; (None, None) without `val`.

    Every clip is as it is sampled: with its condition, whole, in order. Both have the same noise
    levels, so that the two losses can be compared.
    """
    if not val:
        return None, None
    settings = replace(recipe, drop_condition=0.0, roam=0.0, frames=0)
    return tuple(DiffusionBatches(settings, clips, val_count(recipe, val))
                 for clips in (val, examples))


def _check_init(recipe, init):
    """Raise ConfigError where the weights to start from are missing."""
    if init is not None and not Path(init).exists():
        raise ConfigError(f"--init {init}: no such file or folder; expected weights to start from")
    if init is None and recipe.trains == "lora":
        raise ConfigError("--init is missing: a LoRA is a small change of a model's weights; give"
                          " the file of that model")


def decoder_batches(recipe, engine, examples, progress):
    """Return DecoderBatches of these clips, which are predicted now."""
    # before the predictions: a wrong crop fails at once
    crops = ViewBatches(recipe, examples.clips, engine.spec)
    return DecoderBatches(recipe, Predictions(recipe, engine, examples, progress), crops)
