"""An unseen object: the embedding whose volume looks like given views, with fixed networks.

Embeddings of trained objects are taken as a sample of a normal distribution. What is optimized are
the coordinates of an embedding in that distribution, pulled towards 0 like a normal prior, so that
few views do not lead away from what the decoder knows. The search begins at the trained object that
looks most alike.
"""
from typing import NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.autodecoder.perceptual import LEAST_SIDE, MultiScaleGradients
from sgm.autodecoder.ray_marching import RayMarcher
from sgm.common.errors import InputError
from sgm.ops.adam import AdamStep, rates
from sgm.ops.tokens import matmul

MOST_OBJECTS = 4096     # of the trained ones, evenly spread, that a fit knows
MOST_PIXELS = 4096      # of all views, by which the most alike of them is found
SQUARES, SIDE = 8, 16   # of the views in a step, pixels a side
STEPS, RATE = 300, 0.05
MASK_WEIGHT = 10.0      # of the opacity, as in the recipes
PRIOR = 0.02            # weight of the mean square of the coordinates
OUTSIDE = 0.02          # share of an object's pixels whose rays may miss the box


class Fit(NamedTuple):
    """What was found for views: the embedding, and the trained object that looked most alike."""
    embedding: np.ndarray               # (1, length)
    nearest: int
    loss: float                         # at the end, mean of the last tenth of the steps


class Embeddings(NamedTuple):
    """The distribution of trained embeddings: mean + coordinates @ basis."""
    mean: np.ndarray                    # (1, length)
    basis: np.ndarray                   # (rank, length), a standard deviation each

    def coordinates(self, embedding):
        """Return the coordinates (1, rank) of an embedding (1, length)."""
        return np.linalg.lstsq(self.basis.T, (embedding - self.mean)[0], rcond=None)[0][None]


def embeddings_of(model, objects):
    """Return the embeddings (N, length) of objects, numpy."""
    return model.run("embeddings", model.embeddings.rows(objects))


def distribution(rows):
    """Return the Embeddings of embeddings (N, length); directions without variance are left out."""
    mean = rows.mean(0, keepdims=True)
    _, deviations, basis = np.linalg.svd(rows - mean, full_matrices=False)
    kept = deviations > 1e-4 * max(float(deviations[0]), 1e-30)
    if not kept.any():
        raise InputError("found one embedding for all objects, expected a trained autodecoder of"
                         " several")
    scaled = basis * (deviations / max(len(rows) - 1, 1) ** 0.5)[:, None]
    return Embeddings(np.float32(mean), np.float32(scaled[kept]))


class FitLoss(nn.Cell):
    """The loss of squares of the views of one embedding, plus the prior.

    Whatever the weights were trained with, it is that of the small recipe: multi-scale gradients,
    and the opacity.
    """

    def __init__(self, model, found, squares, side):
        super().__init__(auto_prefix=False)
        self.model, self.squares, self.side = model, squares, side
        self.mean, self.basis = Tensor(found.mean), Tensor(found.basis)
        self.coordinates = Parameter(Tensor(np.zeros((1, len(found.basis)), np.float32)),
                                     name="coordinates")
        self.perceptual = MultiScaleGradients(side)
        self.march = RayMarcher(model.spec.volume.side, model.spec.samples, 1, 1)

    def construct(self, origins, directions, jitter, target, known):
        """Return the loss and its part without the prior.

        origins, directions (3, rays); target (squares, 4, side, side), premultiplied; known
        (squares, 1, side, side): 1 where a view tells something, else 0.
        """
        embedding = self.mean + matmul(self.coordinates, self.basis)
        latents = self.model.latent_decoder(embedding)
        made = self.march(self.model.decode(latents), origins, directions, jitter)
        made = made.reshape(4, self.squares, self.side, self.side).transpose(1, 0, 2, 3) * known
        loss = self.perceptual(made[:, :3], target[:, :3])
        loss = loss + MASK_WEIGHT * P.abs(made[:, 3] - target[:, 3]).mean()
        return loss + PRIOR * (self.coordinates * self.coordinates).mean(), P.stop_gradient(loss)


class ViewPixels:
    """Pixels of posed views and their rays.

    views: a `sgm.reconstruct.posed_views.PosedViews` in our world. Raises InputError where the
    object is not in the box of the volumes.
    """

    def __init__(self, views, source="the views"):
        self.target = np.concatenate([views.rgb, views.mask[..., None]], -1)
        self.known = np.ones_like(self.target[..., :1]) if views.known is None else \
            np.float32(views.known[..., None])
        count, height, width = views.mask.shape
        places = (part.reshape(-1) for part in np.indices((count, height, width)))
        self.origins, self.directions = (
            part.reshape(count, height, width, 3) for part in views.rays(*places))
        misses = ~_meets_box(self.origins, self.directions)[views.mask > 0.5]
        if misses.mean() > OUTSIDE:
            raise InputError(f"{source}: {misses.mean():.0%} of the object's pixels see past the"
                             " box |x|, |y|, |z| <= 0.5 of the autodecoder, expected an object"
                             " within it, as in our views folders; scale and shift the cameras")
        unit = LEAST_SIDE["gradients"]
        self.side = min(SIDE, height // unit * unit, width // unit * unit)
        if not self.side:
            raise InputError(f"{source}: found {width} x {height} pixels, expected at least {unit}"
                             " a side")

    def batch(self, rng, samples):
        """Return the arrays that `FitLoss` takes, of random squares."""
        count, height, width = self.target.shape[:3]
        side = self.side
        corners = rng.integers((count, height - side + 1, width - side + 1), size=(SQUARES, 3))

        def squares(maps):
            return np.stack([maps[k, y:y + side, x:x + side] for k, y, x in corners])

        rays = [np.ascontiguousarray(squares(part).reshape(-1, 3).T)
                for part in (self.origins, self.directions)]
        jitter = rng.random((samples, rays[0].shape[1]), np.float32)
        pictures = (squares(self.target), squares(self.known))
        return (*rays, jitter,
                *(np.ascontiguousarray(part.transpose(0, 3, 1, 2)) for part in pictures))


def _meets_box(origins, directions):
    """Return which rays (..., 3) meet the box [-0.5, 0.5]^3 before them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(end - origins) / directions for end in (-0.5, 0.5)])
    near, far = np.fmin(*ends).max(-1), np.fmax(*ends).min(-1)
    return far > np.maximum(near, 0)


def _spread(model):
    """Return MOST_OBJECTS of the trained objects, evenly spread; all, if there are fewer."""
    return np.unique(np.linspace(0, model.spec.objects - 1, MOST_OBJECTS).round().astype(int))


def nearest_object(model, pixels, progress=None, stopped=()):
    """Return the trained object whose views differ least, by mean absolute error.

    MOST_PIXELS pixels of all views are compared, at random places that are always the same.
    progress(done, all) is called now and then; once `stopped` holds something, the best so far
    counts.
    """
    objects, total = _spread(model), pixels.known.size
    chosen = np.random.default_rng(0).permutation(total)[:MOST_PIXELS]
    *rays, target, known = (
        values.reshape(total, -1)[chosen] for values in
        (pixels.origins, pixels.directions, pixels.target, pixels.known))
    batch, losses = min(8, len(objects)), []
    for start in range(0, len(objects), batch):
        some = objects[start:start + batch]
        latents = model.latents_of(np.resize(some, batch), batch)
        made = model.render_rays(model.volumes_of(latents), *rays)
        losses += list(np.abs(made * known - target).mean((1, 2))[:len(some)])
        if progress:
            progress(min(start + batch, len(objects)), len(objects))
        if stopped:
            break
    return int(objects[np.argmin(losses)])


class Fitter:
    """Fits embeddings of an ObjectModel to views; what is compiled is kept for further objects."""

    def __init__(self, model):
        self.model = model
        self.found = distribution(embeddings_of(model, _spread(model)))
        self.steps = {}             # by the side of the squares: loss, compiled start and step

    def _step(self, side, embedding):
        """Return the loss and the compiled step for squares of a side, to begin at an embedding."""
        if side not in self.steps:
            loss = FitLoss(self.model, self.found, SQUARES, side)
            cell = AdamStep(loss, [loss.coordinates], f"fit{side}")
            self.steps[side] = loss, ops.compiled(cell.begin), ops.compiled(cell.construct)
        loss, begin, step = self.steps[side]
        begin(Tensor(np.float32(self.found.coordinates(embedding))))
        return loss, step

    def fit(self, views, steps=STEPS, seed=0, source="the views", progress=None, stopped=()):
        """Return the Fit of PosedViews, and its latent (1, 8^3, C).

        progress(stage, done, all, text) is called after each part; once `stopped`, a list, holds
        something, what was found so far counts. Raises InputError.
        """
        model, pixels = self.model, ViewPixels(views, source)
        tell = progress or (lambda *_: None)
        nearest = nearest_object(
            model, pixels, lambda done, count: tell("nearest object", done, count, ""), stopped)
        loss, step = self._step(pixels.side, embeddings_of(model, np.array([nearest])))
        rng, losses = np.random.default_rng(seed), []
        for number in range(steps):
            if stopped:
                break
            rate = RATE * 0.5 * (1 + np.cos(np.pi * number / steps))
            arrays = pixels.batch(rng, model.spec.samples)
            _, value = step(rates(number, rate), *map(Tensor, arrays))
            losses.append(float(ops.fetch(value)))
            tell("embedding", number + 1, steps, f"loss {losses[-1]:.4f}")
        embedding = self.found.mean + ops.fetch(loss.coordinates) @ self.found.basis
        latent = model.run("latent_decoder", embedding)
        last = float(np.mean(losses[-max(1, steps // 10):])) if losses else float("nan")
        return Fit(embedding, nearest, last), latent.reshape(1, -1, model.spec.volume.latent_width)
