"""NeRF training: one compiled step of static shape, on rays sampled on the host within the hull."""
import cv2
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.common.errors import argument
from sgm.ops import adam
from sgm.reconstruct.nerf import encoding, volume_rendering
from sgm.reconstruct.nerf.appearance import Appearance
from sgm.reconstruct.nerf.field import Field
from sgm.reconstruct.posed_views import HALF, ShapeError

CELLS = 64              # per side of the grid of where the object may be
MARGIN = 0.02           # around the hull, box units
TV_PAIRS = 16384        # pairs of neighbors compared per step
MEMORY = 0.7            # share of the cached density that stays where less is found


def make_levels(settings):
    """Return the `encoding.Levels` of a `NerfSpec`."""
    if settings.encoding == "dense":
        return encoding.dense_levels(settings.resolutions, settings.features)
    return encoding.hash_levels(
        settings.hash_levels,
        settings.hash_features,
        settings.hash_log2,
        settings.hash_coarsest,
        settings.hash_finest,
    )


def make_field(settings, seed=0):
    """Return an untrained Field of a `NerfSpec`."""
    return Field(make_levels(settings), HALF, settings.width, settings.directional, seed)


class Rendering(nn.Cell):
    """The loss of a batch of N rays of S samples.

    appearance: an `Appearance` that is learned along, or None; weight: of its L1 penalty.
    """

    def __init__(self, field, settings, appearance=None, weight=0.0):
        super().__init__(auto_prefix=False)
        self.field, self.settings = field, settings
        self.appearance, self.weight = appearance, weight
        self.composite = volume_rendering.Composite(settings.samples)

    def construct(
        self, indices, weights, t, delta, rgb, alpha, background, harmonics=None, pairs=None,
        places=None, place_weights=None
    ):
        """Return the loss and the mean squared error of the colors over background, a scalar each.

        indices, weights: `field.encode` of the N S sample points; t, delta (N, S): see
        `volume_rendering.place_samples`; rgb (N, 3) premultiplied, alpha (N,), background (N, 3):
        the picture; harmonics (N S, 16) or None; pairs: of `encoding.vertex_pairs`; places,
        place_weights: of `Appearance.encode`.
        """
        raw, colors = self.field(indices, weights, harmonics)
        shares = self.composite(self.field.sigma(raw).reshape(t.shape), delta)
        opacity = shares.sum(-1)
        see_through = (1 - opacity).reshape(-1, 1)
        color = volume_rendering.accumulate(shares, colors) + see_through * background
        if self.appearance is not None:
            added = self.appearance(places, place_weights)
            color = color + alpha.reshape(-1, 1) * added
        target = rgb + (1 - alpha).reshape(-1, 1) * background
        loss = (
            volume_rendering.photometric(color, target)
            + self.settings.mask * volume_rendering.squared(opacity - alpha).mean()
        )
        if self.settings.distortion > 0:
            loss = loss + self.settings.distortion * volume_rendering.distortion(
                self.composite, shares, t, delta
            )
        if self.settings.depth > 0:
            inside = P.cast(alpha > 0.99, ms.float32)
            loss = loss + self.settings.depth * volume_rendering.depth_smoothness(
                (shares * t).sum(-1), inside
            )
        if self.settings.tv > 0:
            loss = loss + self.settings.tv * volume_rendering.total_variation(
                self.field.table, pairs, TV_PAIRS
            )
        if self.appearance is not None:
            loss = loss + self.weight * P.abs(added).mean()
        return loss, volume_rendering.squared(P.stop_gradient(color) - target).mean()


class Rays:
    """Random rays of the views' known pixels near the object, in patches of 2 x 2 if asked for."""

    def __init__(self, views, patches):
        self.views, self.patches = views, patches
        reach = max(3, 2 * (max(views.h, views.w) // 50) + 1)
        near = np.stack(
            [
                cv2.dilate((mask > 0).astype(np.uint8), np.ones((reach, reach)))
                for mask in views.mask
            ]
        )
        if views.known is not None:
            # of a patch its upper left pixel is drawn
            around = np.ones((2, 2) if patches else (1, 1), np.uint8)
            near &= np.stack([cv2.erode(known.astype(np.uint8), around, anchor=(0, 0))
                              for known in views.known])
        self.pixels = np.argwhere(near).astype(np.int32)
        if not len(self.pixels):
            raise ShapeError("nerf: no pixel near the object is known; check the masks")

    def draw(self, count, rng):
        """Return origins, directions (N, 3), rgb (N, 3), alpha (N,), all float32, and their pixels.

        These are view, row, column, (N,) int32 each.
        """
        if not self.patches:
            view, row, column = self.pixels[rng.randint(len(self.pixels), size=count)].T
        else:
            view, row, column = np.repeat(
                self.pixels[rng.randint(len(self.pixels), size=count // 4)], 4, axis=0
            ).T
            step = np.tile([[0, 0, 1, 1], [0, 1, 0, 1]], count // 4)
            row = np.minimum(row, self.views.h - 2) + step[0]
            column = np.minimum(column, self.views.w - 2) + step[1]
        origins, directions = self.views.rays(view, row, column)
        return (
            origins,
            directions,
            self.views.rgb[view, row, column],
            self.views.mask[view, row, column],
            (view, row, column),
        )


class NerfTrainer:
    """A field, where its density is, and the training state.

    `sgm.reconstruct.optimization.optimize` trains it. `state` and `restore` make a run resume bit
    for bit.
    views: normalized. sdf: that of the hull, on a grid of the box |x| <= HALF: there is nothing
    outside it. settings: a `NerfSpec`. cells, weight: of each view's grid of gray levels, see
    `DisagreementSpec`; 0 cells = none. Raises ShapeError if the hull is empty.
    """
    name = "nerf"

    def __init__(self, views, sdf, settings, seed=0, cells=0, weight=0.0):
        self.views, self.settings, self.seed = views.resized(settings.side), settings, seed
        self.field = make_field(settings, seed)
        self.rays = Rays(self.views, patches=settings.depth > 0)
        self.occupied = volume_rendering.occupancy(sdf, HALF, CELLS, MARGIN)
        if not self.occupied.any():
            raise ShapeError(
                "the hull is empty: there is no place for a field; check masks and poses"
            )
        self.density = np.zeros(self.occupied.shape, np.float32)
        self.done = 0
        self.appearance = Appearance(len(views), cells) if cells else None
        parameters = self.field.trainable_params()
        if cells:
            parameters += self.appearance.trainable_params()
        self.adam = adam.AdamStep(
            Rendering(self.field, settings, self.appearance, weight), parameters)
        self.graph = ops.compiled(self.adam.construct)
        self.buffers = None
        self.history = []

    @property
    def total(self):
        """Return the number of all steps, done or not."""
        return self.settings.steps

    def step(self):
        """Make one step. Return its loss and the PSNR of its rays in dB."""
        settings, rng = self.settings, np.random.RandomState([self.seed, self.done])
        if self.done % settings.refresh == 0 and self.done:
            self.refresh_density(rng)
        origins, directions, rgb, alpha, pixels = self.rays.draw(settings.rays, rng)
        t, delta = self._sampled(origins, directions, settings.samples, settings.uniform, rng)
        points = (origins[:, None] + t[..., None] * directions[:, None]).reshape(-1, 3)
        self.buffers = self.field.encode(points, self.buffers)
        background = rng.random_sample((settings.rays, 3)).astype(np.float32)
        batch = [*self.buffers, t, delta, rgb, alpha, background]
        # What is not used has no place in the graph; what comes before something used, a zero.
        if settings.directional or settings.tv > 0 or self.appearance:
            batch.append(np.zeros(1, np.float32))
        if settings.directional:
            batch[-1] = np.repeat(
                encoding.spherical_harmonics(directions), settings.samples, axis=0
            )
        if settings.tv > 0:
            batch.append(encoding.vertex_pairs(self.field.levels, TV_PAIRS, rng).reshape(-1))
        elif self.appearance:
            batch.append(np.zeros(1, np.int32))
        if self.appearance:
            batch += self.appearance.encode(*pixels, self.views.h, self.views.w)
        rates = adam.rates(self.done, settings.lr * 0.1 ** (self.done / settings.steps))
        loss, error = self.graph(rates, *map(Tensor.from_numpy, batch))
        error, loss = float(ops.fetch(error)), float(loss.asnumpy())
        if not np.isfinite(loss):
            raise ShapeError(
                f"nerf: the loss is not finite at step {self.done}; use a smaller nerf.lr (now"
                f" {settings.lr:g})"
            )
        self.done += 1
        return loss, -10 * np.log10(max(error, 1e-10))

    def refresh_density(self, rng):
        """Renew the cached density at a random point of every cell that may hold something."""
        places = np.argwhere(self.occupied)
        points = (places + rng.random_sample(places.shape)) * (2 * HALF / CELLS) - HALF
        found, _ = self.field.evaluate(points.astype(np.float32))
        index = tuple(places.T)
        self.density[index] = np.maximum(found, MEMORY * self.density[index])

    def render(self, view, side, samples):
        """Return a view of the field at most `side` pixels large, on white, uint8 (h, w, 3)."""
        views = self.views.subset([view]).resized(side)
        rows, columns = np.divmod(np.arange(views.h * views.w), views.w)
        sigma, rgb, t, delta, _, _ = self.march(
            *views.rays(np.zeros(len(rows), int), rows, columns), samples
        )
        tau = sigma * delta
        before = np.cumsum(tau, axis=1) - tau
        shares = np.exp(-before) * (1 - np.exp(-tau))
        color = (shares[..., None] * rgb).sum(1) + (1 - shares.sum(1))[:, None]
        return np.round(np.clip(color, 0, 1) * 255).astype(np.uint8).reshape(views.h, views.w, 3)

    def _sampled(self, origins, directions, samples, uniform, rng=None):
        return volume_rendering.sampled(origins, directions, self.occupied, self.density, HALF,
                                        samples, rng, uniform)

    def march(self, origins, directions, samples):
        """Evaluate the field along rays.

        Return sigma (N, S), rgb (N, S, 3), t, delta (N, S), origins, directions. Only rays that
        meet the occupied cells cost anything.
        """
        uniform = 0.5 * self.settings.uniform
        t, delta = self._sampled(origins, directions, samples, uniform)
        hit = delta[:, -1] > 0
        sigma, rgb = np.zeros(t.shape, np.float32), np.zeros((*t.shape, 3), np.float32)
        points = (origins[hit, None] + t[hit][..., None] * directions[hit, None]).reshape(-1, 3)
        if len(points):
            found = self.field.evaluate(points)
            sigma[hit], rgb[hit] = found[0].reshape(-1, samples), found[1].reshape(-1, samples, 3)
        return sigma, rgb, t, delta, origins, directions

    def state(self):
        """Return {name: array} of everything that the rest of the run depends on."""
        return {
            **self.adam.state(),
            "density": self.density,
            "step": np.array(self.done),
            "history": np.array(self.history),
        }

    def restore(self, arrays):
        """Take over what `state` returned. Raises ShapeError if it is of other settings."""
        try:
            self.adam.restore(arrays)
            self.density, self.done = arrays["density"].copy(), int(arrays["step"])
            self.history = [tuple(row) for row in arrays["history"]]
        except KeyError as error:
            raise ShapeError(
                f"nerf: the checkpoint does not fit the settings ({error}); run without"
                f" {argument('resume')}, or with the settings of the first run"
            ) from None
