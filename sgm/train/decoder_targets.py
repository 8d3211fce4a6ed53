"""Targets of the decoder's training: latents as the UNet predicts them, next to the true views.

Where a picture does not show what the far side looks like, predicted latents are nearly an average
of what it may be. A decoder that was trained on encodings only, which are never averages, turns
those into wrong colors.
"""
import hashlib
from typing import NamedTuple

import numpy as np

from sgm.config.yaml_reader import ConfigError
from sgm.train.batches import least_white
from sgm.train.data.clips import hash_of
from sgm.train.data.sources import cache_store

# Sampling steps of a prediction, drawn for each clip: few give averages, many what is sampled. The
# upper bound is this, or the model's own number of steps if that is higher.
MIN_STEPS, MAX_STEPS = 2, 8


class Predicted(NamedTuple):
    """One clip: the views in the network's order (T,), their encodings and their predictions.

    Encodings and predictions are (T, z, h, w), unscaled.
    """
    index: int
    views: np.ndarray
    encoded: np.ndarray
    predicted: np.ndarray


class Predictions:
    """`Predicted` of up to recipe.predicted_clips clips of `examples`, kept in the recipe's cache.

    examples: a `sgm.train.data.examples.Examples`. Clips are taken evenly from all of them, as data
    sets follow each other. Each is predicted from its condition view, without guidance. Raises
    ConfigError if the UNet was never trained.
    """

    def __init__(self, recipe, engine, examples, progress):
        # zero at the start of a training
        if not engine.model.diffusion_model.out[2].weight.asnumpy().any():
            raise ConfigError("--init: found a UNet that was never trained, expected one to whose"
                              " predictions the decoder is fitted (train with task: diffusion"
                              " first)")
        self.examples, self.num_frames = examples, examples.num_frames
        count = min(len(examples), recipe.predicted_clips)
        indices = np.linspace(0, len(examples) - 1, count).astype(int).tolist()
        self.steps = MIN_STEPS, max(MAX_STEPS, engine.spec.sampling.steps)
        store, weights = cache_store(recipe), hash_unet(engine)
        keys = [
            hash_of("predicted", weights, engine.spec.sampling, self.steps, recipe.seed,
                    recipe.condition, index, examples.clips[index].digest(store.memo))
            if store else None
            for index in indices
        ]
        shape = (self.num_frames, *examples.latent_shape)
        if store:
            store.make_room(keys, [shape] * count)
        self.items = [self._clip(recipe.seed, engine, index, store, key, shape)
                      for index, key in zip(indices, progress(keys, "predicting clips"))]
        engine.release()

    def _clip(self, seed, engine, index, store, key, shape):
        rng = np.random.default_rng([seed, index])
        loaded = self.examples.load(rng, index, 0.0)
        example, (encoded, *_) = loaded
        if store and store.has(key, shape):
            return Predicted(index, example.views, encoded, np.array(store.read(key, shape)))
        arrays = self.examples.conditions(rng, [loaded], 0.0)
        condition = dict(zip(("crossattn", "concat", "vector"), arrays))
        noise = rng.standard_normal(shape, dtype=np.float32)
        least, most = self.steps
        z = engine.sample(noise, condition, None, steps=int(rng.integers(least, most + 1)),
                          guidance_scales=np.ones(self.num_frames))
        predicted = z.asnumpy() / self.examples.scale
        if store:
            store.write(key, predicted)
        return Predicted(index, example.views, encoded, predicted)

    def __len__(self):
        return len(self.items)

    def frame(self, clip, place):
        """Return the true view of that place, float32 (1, 3, H, W) in [-1, 1]."""
        return self.examples.clips.frames(clip.index, [clip.views[place]])


class DecoderBatches:
    """Crops of single views and their latents: a share of predictions, the others encodings.

    recipe.predicted: that share. clips: `Predictions`. Raises ConfigError for a size of crops that
    does not fit.
    """

    def __init__(self, recipe, clips, crops):
        """Keep the parts.

        crops: a `sgm.train.batches.ViewBatches` of the same clips, whose sizes and places are used.
        """
        self.recipe, self.clips, self.crops = recipe, clips, crops

    def clip_indices(self, number):
        """Return the clips of batch `number` (from 0), one for each view."""
        return [self.clips.items[clip].index for clip, _ in self._draw(number)[1]]

    def _draw(self, number):
        rng = np.random.default_rng([self.recipe.seed, number])
        return rng, rng.integers((len(self.clips), self.clips.num_frames),
                                 size=(self.recipe.batch, 2))

    def __call__(self, number):
        """Return the arrays that `sgm.train.losses.DecoderLoss` takes."""
        rng, draws = self._draw(number)
        _, height, width = self.crops.latent_shape
        factor = self.crops.size // height
        # places in latents: in pixels they are multiples of the factor
        places = rng.integers(self.clips.examples.latent_shape[1] - height + 1,
                              size=(self.recipe.batch, self.crops.TRIES, 2))
        predicted = rng.random(self.recipe.batch) < self.recipe.predicted
        latents, images = [], []
        for (k, place), corners, guessed in zip(draws, places, predicted):
            clip = self.clips.items[k]
            image, (y, x) = least_white(self.clips.frame(clip, place), factor * corners,
                                        self.crops.size)
            y, x = y // factor, x // factor
            whole = (clip.predicted if guessed else clip.encoded)[place]
            latents.append(whole[:, y:y + height, x:x + width])
            images.append(image[0])
        return np.stack(latents), np.stack(images)


def hash_unet(engine):
    """Return the hash of the UNet's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in engine.model.parameters_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(parameter.asnumpy()))
    return digest.hexdigest()
