"""Training of the estimator of an input's elevation, on the features of a trained network."""
import numpy as np

from sgm.config.yaml_reader import ConfigError
from sgm.feedforward.layers.elevation_head import ElevationLoss
from sgm.feedforward.reconstructor import load_lrm_of
from sgm.train.data import shuffled
from sgm.train.feedforward.feedforward_batches import check_size, input_view
from sgm.train.objects.masked_views import MaskedViews
from sgm.train.schedule import described_rate


class ElevationBatches:
    """Batches of views and their elevations.

    Drawn is any view of an object: those of a dynamic orbit are also above and below the range that
    the set was rendered in, which is that of its last view. still: to measure; the last view of
    each, which is within it, as it was rendered. Raises DataError for views that do not shrink to
    the network's input.
    """

    def __init__(self, recipe, spec, clips, still=False):
        self.recipe, self.spec, self.clips, self.still = recipe, spec, clips, still
        check_size(clips, image_size=spec.image_size)

    def clip_indices(self, number):
        """Return the objects of batch `number` (from 0)."""
        return shuffled(self.recipe.seed, len(self.clips), number, self.recipe.batch)

    def __call__(self, number):
        """Return the arrays that `sgm.feedforward.layers.elevation_head.ElevationLoss` takes."""
        rng = np.random.default_rng([self.recipe.seed, number])
        objects = self.clip_indices(number)
        last = self.clips.num_frames - 1
        views = rng.integers(last if self.still else 0, last + 1, size=len(objects))
        recentered = 0.0 if self.still else self.recipe.recentered
        images = [input_view(self.clips, self.spec, rng, index, view, recentered)[0]
                  for index, view in zip(objects, views)]
        elevations = [self.clips.angles[index][view][1] for index, view in zip(objects, views)]
        return np.stack(images).astype(np.float32), np.array(elevations, np.float32)


def check_elevation_fit(spec, recipe):
    """Raise ConfigError unless there is an estimator to train."""
    if not spec.elevation_width:
        raise ConfigError(f"elevation_width: found 0 of {spec.name}, expected the width of an"
                          " estimator to train")


def build_elevation(spec, recipe, init, progress, together):
    """Return (Reconstructor, batches, held-out batches or None, a sentence on the weights).

    init: weights of the very network, trained; progress, together: not used, as nothing here takes
    long and batches do not depend on one another. Raises InputError.
    """
    if init is None:
        raise ConfigError("--init is missing: the estimator reads the features of a trained"
                          " network; give the averaged.safetensors of its run")
    batches, held_out = ElevationBatches(recipe, spec, MaskedViews(recipe.data)), None
    if recipe.val:
        others = MaskedViews(recipe.val, key="val")
        held_out = ElevationBatches(recipe, spec, others, still=True)
    return load_lrm_of(spec, init), batches, held_out, str(init)


def elevation_objective(model, recipe, batches):
    """Return the loss, a Cell."""
    return ElevationLoss(model.network)


def describe_elevation(spec, recipe, objects, world):
    """Yield lines (name, text) on what a run would train; objects: how many, or None."""
    width, inner = 2 * spec.encoder.width, spec.elevation_width
    each = recipe.batch * recipe.accumulate * world
    yield "model", f"{spec.name}: the estimator of the elevation, {width} -> {inner} -> 1"
    yield "steps", f"{recipe.steps}, each of {each} views; {recipe.recentered:.0%} recentered"
    yield "loss", "mean absolute error, degrees; so is val_loss"
    if objects:
        yield "data", f"{objects} objects, each seen {recipe.steps * each / objects:.1f} times"
    yield "rate", described_rate(recipe)
