"""From a recipe to the parts of its run."""
from dataclasses import replace

from sgm.config import ConfigError
from sgm.train.batches import DiffusionBatches, ViewBatches
from sgm.train.data import cache_memo, read_clips, sources
from sgm.train.start import start
from sgm.train.trainer import Trainer


def build(spec, recipe, init, progress, rank=0, world=1):
    """-> (Trainer, a sentence on its weights). `init`: see `sgm.train.start.start`; progress(iterable, description) wraps
    long loops; rank, world: see `Trainer`. Encodes the clips that are not in the cache yet. Raises InputError."""
    if recipe.task == "autoencoder":
        if spec.vae.decoder == "temporal":
            raise ConfigError(f"task: found autoencoder for {spec.name}, whose decoder is over time, expected a model with an"
                              " image decoder (--model-set vae.decoder=image)")
        (clips, _), (val, _) = read_clips(recipe, spec, cache_memo(recipe))
        batches = ViewBatches(recipe, clips, spec)      # before the weights: a crop that cannot be is told at once
        held_back = val and ViewBatches(recipe, val, spec)
        engine, origin = start(spec, init, recipe.seed)
    else:
        if recipe.front_weight < 1 and not spec.is_orbit:
            raise ConfigError(f"front_weight: found {recipe.front_weight:g}, expected 1 for {spec.name}, a model of videos")
        engine, origin = start(spec, init, recipe.seed)
        examples, val = sources(recipe, engine, progress, rank, world)
        batches = DiffusionBatches(recipe, examples)
        # every clip as it is sampled: with its condition, in order
        held_back = val and DiffusionBatches(replace(recipe, drop_condition=0.0, roam=0.0), val)
    return Trainer(engine, recipe, batches, held_back, rank, world), origin
