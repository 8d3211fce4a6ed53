"""The arrays of every step of an autodecoder's training, which follow from the batch's number."""
import numpy as np

from sgm.autodecoder.perceptual import LEAST_SIDE
from sgm.config.yaml_reader import ConfigError
from sgm.train.batches import DiffusionBatches
from sgm.train.data import shuffled


class ViewSquares:
    """Stage 1: squares of pixels of a few views of each object.

    views: a MaskedViews; numbers: of the views that are used; model: an ObjectModel. Where objects
    share their cameras, those of a batch share views and places of the squares, too: they are then
    rendered together. still: samples lie in the middles of their stretches, to measure. Raises
    ConfigError for a size of squares, or a number of views, that there is not.
    """

    def __init__(self, recipe, model, views, numbers, still=False):
        self.recipe, self.model, self.clips = recipe, model, views
        self.numbers, self.still = numbers, still
        self.side = recipe.crop or views.size
        self.count = recipe.views
        unit = LEAST_SIDE["vgg" if recipe.vgg else "gradients"]
        if self.side > views.size or self.side % unit:
            raise ConfigError(f"crop: found {self.side}, expected a multiple of {unit} up to"
                              f" {views.size}, the views' size; or 0 for whole views")
        if not still and self.count > len(numbers):
            raise ConfigError(f"views: found {self.count}, expected at most {len(numbers)}, the"
                              " views of an object that are trained on")

    def clip_indices(self, number):
        """Return the objects of batch `number` (from 0)."""
        return shuffled(self.recipe.seed, len(self.clips), number, self.recipe.batch)

    def __call__(self, number):
        """Return the arrays that `sgm.autodecoder.view_loss.ViewLoss` takes."""
        rng = np.random.default_rng([self.recipe.seed, number])
        objects = self.clip_indices(number)
        groups = objects[:1] if self.clips.shared else objects
        drawn = [self._draw(rng) for _ in groups]
        origins, directions, cameras = [], [], []
        for index, (views, places) in zip(groups, drawn):
            for kind, values in zip((origins, directions), self.clips.rays(index, views)):
                kind.append(self._squares(values, places).reshape(-1, 3))
            cameras.append(views + (0 if self.clips.shared else index * self.clips.num_frames))
        target = np.concatenate([
            self._squares(self.clips.pictures(index, views).transpose(0, 2, 3, 1), places)
            for index, (views, places) in zip(objects, drawn * (len(objects) // len(drawn)))])
        rays = [np.ascontiguousarray(np.concatenate(kind).T, np.float32)
                for kind in (origins, directions)]
        shape = (self.model.spec.samples, rays[0].shape[1])
        jitter = np.full(shape, 0.5, np.float32) if self.still else rng.random(shape, np.float32)
        arrays = (self.model.embeddings.rows(objects), *rays, jitter,
                  np.ascontiguousarray(target.transpose(0, 3, 1, 2)))
        if self.model.cameras is not None:
            arrays += (np.concatenate(cameras).astype(np.int32),)
        return arrays

    def _draw(self, rng):
        """Return the numbers of the views, and the squares' places (row, column) in them."""
        views = rng.permutation(self.numbers)
        return (np.resize(views, self.count),
                rng.integers(self.clips.size - self.side + 1, size=(self.count, 2)))

    def _squares(self, maps, places):
        """Return the squares (n, side, side, C) at `places` in maps (n, S, S, C)."""
        return np.stack([a[y:y + self.side, x:x + self.side] for a, (y, x) in zip(maps, places)])


class LatentBatches(DiffusionBatches):
    """Stage 2: normalized latents (N, 8^3, C), noise and noise levels, and what the objects are.

    tokens (N, K, T, W): K equally good conditions of each object, of which one is drawn each time;
    None: there are none. drop: share of conditions that are zeroed, so that the network also learns
    to do without.
    """

    def __init__(self, recipe, latents, together=None, tokens=None, drop=0.0):
        super().__init__(recipe, latents, together)
        self.tokens, self.drop = tokens, drop

    def __call__(self, number):
        """Return the arrays that `sgm.autodecoder.latents.edm.DenoisingLoss` takes."""
        rng = np.random.default_rng([self.recipe.seed, number])
        indices = self.clip_indices(number)
        x = self.clips[indices]
        x = x.reshape(-1, x.shape[-1])
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        arrays = x, noise, self.sigmas(number, 1)
        if self.tokens is None:
            return arrays
        chosen = rng.integers(self.tokens.shape[1], size=len(indices))
        kept = rng.random(len(indices)) >= self.drop
        tokens = self.tokens[indices, chosen] * np.float32(kept)[:, None, None]
        return (*arrays, tokens.reshape(-1, tokens.shape[-1]))
