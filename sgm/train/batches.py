"""The arrays of every training step.

All of them follow from the recipe's seed and the batch's number, so a resumed run continues with
what the interrupted one would have used.
"""
import numpy as np

from sgm.config.yaml_reader import ConfigError
from sgm.train.data import shuffled
from sgm.train.losses import EDGE_BLOCK, Stratified, lognormal_sigmas


def val_count(recipe, clips):
    """Return the number of held-out batches to evaluate: all, or the recipe's `val_batches`."""
    return min(recipe.val_batches, -(-len(clips) // recipe.batch))


class DiffusionBatches:
    """Batches of the diffusion loss from encoded clips.

    together: the number of consecutive batches that share strata of noise levels (those that make
    one step), by default the recipe's `accumulate`.
    """

    def __init__(self, recipe, clips, together=None):
        self.recipe, self.clips, self.together = recipe, clips, together or recipe.accumulate

    def clip_indices(self, number):
        """Return the clips of batch `number` (from 0)."""
        return shuffled(self.recipe.seed, len(self.clips), number, self.recipe.batch)

    def __call__(self, number):
        """Return the arrays that `sgm.train.losses.DiffusionLoss` takes."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, number])
        x0, *conditions = self.clips.batch(rng, self.clip_indices(number), recipe.drop_condition,
                                           recipe.roam, recipe.frames)
        noise = rng.standard_normal(x0.shape, dtype=np.float32)
        return x0, noise, self.sigmas(number, len(x0) // recipe.batch), *conditions

    def sigmas(self, number, num_frames):
        """Return the noise levels of batch `number`, (clips * num_frames,) float32.

        They are its share of the levels of the batches together, from a random stream of their own:
        whichever process has a batch, its levels are those that a single process would draw.
        """
        recipe, (group, place) = self.recipe, divmod(number, self.together)
        rng = Stratified(np.random.default_rng([recipe.seed, group, 1]))
        levels = lognormal_sigmas(rng, self.together * recipe.batch, num_frames, recipe.p_mean,
                                  recipe.p_std)
        return levels.reshape(self.together, -1)[place]


class ViewBatches:
    """Single views, or square crops of them, for the autoencoder.

    Raises ConfigError for a size of crops that does not fit.
    """

    TRIES = 3       # places a crop may lie at; the one that shows most of the object is taken

    def __init__(self, recipe, clips, spec):
        self.recipe, self.clips = recipe, clips
        self.size = recipe.crop or clips.size
        if self.size > clips.size or self.size % spec.vae_factor:
            raise ConfigError(f"crop: found {self.size}, expected a multiple of {spec.vae_factor}"
                              f" (pixels per latent) up to {clips.size}, the views' size; or 0 for"
                              " whole views")
        if recipe.edge_weight and self.size % EDGE_BLOCK:
            raise ConfigError(f"crop: found {self.size}, expected a multiple of {EDGE_BLOCK} with"
                              " edge_weight")
        side = self.size // spec.vae_factor
        self.latent_shape = (spec.vae.z_channels, side, side)

    def clip_indices(self, number):
        """Return the clips of batch `number` (from 0), one for each view."""
        return [int(clip) for clip, _ in self._draw(number)[1]]

    def _draw(self, number):
        rng = np.random.default_rng([self.recipe.seed, number])
        return rng, rng.integers((len(self.clips), self.clips.num_frames),
                                 size=(self.recipe.batch, 2))

    def __call__(self, number):
        """Return the arrays that `sgm.train.losses.AutoencoderLoss` takes."""
        rng, draws = self._draw(number)
        corners = rng.integers(self.clips.size - self.size + 1,
                               size=(self.recipe.batch, self.TRIES, 2))
        images = np.concatenate([least_white(self.clips.frames(clip, [view]), places, self.size)[0]
                                 for (clip, view), places in zip(draws, corners)])
        return images, rng.standard_normal((self.recipe.batch,) + self.latent_shape,
                                           dtype=np.float32)


def least_white(image, places, size):
    """Return the square crop of an image (1, 3, H, W) that is least white, and its place.

    places: rows (y, x) to choose from.
    """
    crops = [(image[..., y:y + size, x:x + size], (y, x)) for y, x in places]
    return min(crops, key=lambda crop: (crop[0] == 1).sum())
