"""Volume rendering of triplanes with static shapes: samples on rays, weights, sums.

VFusion3D and OpenLRM: half of the samples are evenly spread over the ray, the others where the
first ones find density; density and color are averaged between neighboring samples before the
density is activated. TripoSR: evenly spread samples. Written from the equations (Mildenhall et al.
2020, arXiv 2003.08934; Chan et al. 2022, arXiv 2112.07945, section 4.3; Barron et al. 2021, arXiv
2103.13415). Transmittance is exp(-cumulative sum); samples are merged by comparison: no search,
no sort, no cumprod.

Both give color (N, 3) without background, opacity (N, 1), the sum of weights times distance (N, 1),
and the first and last distance (N, 1) of each ray.
"""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from sgm.ops import scatter
from sgm.reconstruct.nerf.volume_rendering import Composite

EMPTY = 1e30    # minus the raw density outside of the box: also its mean with another is none


def summed(weights, values):
    """Return the sums (N, C) over samples of weights (N, S) times values (N, S, C)."""
    rays, samples = weights.shape
    return P.matmul(weights.reshape(rays, 1, samples), values).reshape(rays, -1)


def _chosen(values, place):
    """Return the values (N, S) at a place (N, S), whole numbers, in each row of (N, M)."""
    rays, width = values.shape
    starts = P.arange(0, rays).astype(ms.int32).reshape(rays, 1) * width
    index = (place.astype(ms.int32) + starts).reshape(-1)
    return P.gather(values.reshape(-1), index, 0).reshape(place.shape)


class Points(nn.Cell):
    """Raw density and color at points of scenes, of a table of `PointDecoder.project`."""

    def __init__(self, decoder, reader):
        super().__init__(auto_prefix=False)
        self.decoder, self.reader = decoder, reader

    def construct(self, table, points):
        """Map points (B, N, 3), of half the box's side, to (B * N, 1) and (B * N, 3)."""
        return self.decoder(self.reader(table, points))


class TwoPasses(nn.Cell):
    """The renderer of VFusion3D and OpenLRM for rays in the box [-1, 1]^3.

    samples: of each pass.
    """

    def __init__(self, decoder, reader, samples, scenes=1):
        super().__init__(auto_prefix=False)
        self.points = Points(decoder, reader)
        self.samples, self.scenes = samples, scenes
        self.coarse, self.composite = Composite(samples - 1), Composite(2 * samples - 1)
        self.steps = Tensor(np.arange(samples, dtype=np.float32).reshape(1, -1))
        # exclusive cumulative sums of the shares of `samples` - 3 slices, and their total
        self.before = Tensor(np.triu(np.ones((samples - 3, samples - 2), np.float32), 1))
        self.one = Tensor(np.float32(1))

    def evaluate(self, table, origins, directions, distances):
        """Return raw density (N, S) and color (N, S, 3) at distances (N, S); outside: empty."""
        rays, samples = distances.shape
        points = directions.reshape(rays, 1, 3) * distances.reshape(rays, samples, 1)
        points = points + origins.reshape(rays, 1, 3)
        raw, color = self.points(table, points.reshape(self.scenes, -1, 3))
        inside = P.less_equal(P.abs(points), self.one).astype(ms.float32)
        inside = inside[:, :, 0] * inside[:, :, 1] * inside[:, :, 2]
        raw = raw.reshape(rays, samples) * inside - EMPTY * (1 - inside)
        return raw, color.reshape(rays, samples, 3) * inside.reshape(rays, samples, 1)

    def weights(self, composite, raw, distances):
        """Return the weights (N, S - 1) of the stretches between samples."""
        density = self.points.decoder.density((raw[:, 1:] + raw[:, :-1]) * 0.5)
        return composite(density, distances[:, 1:] - distances[:, :-1])

    def refine(self, distances, weights, uniform):
        """Return distances (N, S) in the stretches with much weight, ascending as `uniform` is.

        The weights (N, S - 1) are smoothed as in mip-NeRF: means of maxima of neighbors, plus a
        little. uniform (N, S) in [0, 1] is where the cumulative distribution is inverted.
        """
        rays, samples = distances.shape
        peaks = P.maximum(P.concat((weights[:, :1], weights), 1),
                          P.concat((weights, weights[:, -1:]), 1))
        shares = ((peaks[:, 1:] + peaks[:, :-1]) * 0.5 + 0.01)[:, 1:-1] + 1e-5
        shares = shares / shares.sum(1, keepdims=True)
        cumulative = P.matmul(shares, self.before)
        # the number of the slice: how many slices begin at or before `uniform`
        begun = P.less_equal(cumulative.reshape(rays, 1, -1), uniform.reshape(rays, samples, 1))
        above = begun.astype(ms.float32).sum(2)
        below = above - 1
        above = P.minimum(above, Tensor(np.float32(samples - 3)))
        middles = (distances[:, 1:] + distances[:, :-1]) * 0.5
        low, start = _chosen(cumulative, below), _chosen(middles, below)
        length = _chosen(cumulative, above) - low
        stretch = _chosen(middles, above) - start
        # uniform = 1 is beyond the last slice: both ends are the same, and so is their difference
        length = P.maximum(length, Tensor(np.float32(1e-5)))
        return start + (uniform - low) / length * stretch

    def merge(self, first, second, first_values, second_values):
        """Return distances (N, 2 S) and values (N, 2 S, C) of two passes in ascending order."""
        rays, samples = first.shape
        passed = P.less_equal(first.reshape(rays, 1, samples), second.reshape(rays, samples, 1))
        passed = passed.astype(ms.float32)
        # a sample's place: its own number, and how many of the other pass come before it
        first_place = self.steps + samples - passed.sum(1)
        second_place = self.steps + passed.sum(2)
        place = P.concat((first_place, second_place), 1).astype(ms.int32)
        place = place + P.arange(0, rays).astype(ms.int32).reshape(rays, 1) * (2 * samples)
        values = P.concat((first_values, second_values), 1)
        both = P.concat((P.concat((first, second), 1).reshape(rays, 2 * samples, 1), values), 2)
        both = scatter.put(both.reshape(rays * 2 * samples, -1), P.stop_gradient(place.reshape(-1)),
                           rays * 2 * samples).reshape(rays, 2 * samples, -1)
        return both[:, :, 0], both[:, :, 1:]

    def construct(self, table, origins, directions, near, far, jitter, uniform):
        """Render rays: origins, directions (N, 3), near, far (N, 1); of all scenes in turn.

        jitter (N, S) in [0, 1]: where in its stretch an evenly spread sample lies; uniform (N, S)
        in [0, 1], ascending: see `refine`.
        """
        stretch = (far - near) / (self.samples - 1)
        even = near + (self.steps + jitter) * stretch
        raw, color = self.evaluate(table, origins, directions, even)
        weights = self.weights(self.coarse, raw, even)
        fine = P.stop_gradient(self.refine(even, weights, uniform))
        fine_raw, fine_color = self.evaluate(table, origins, directions, fine)
        rays = raw.shape[0]
        distances, values = self.merge(
            even, fine, P.concat((raw.reshape(rays, -1, 1), color), 2),
            P.concat((fine_raw.reshape(rays, -1, 1), fine_color), 2))
        weights = self.weights(self.composite, values[:, :, 0], distances)
        colors = (values[:, 1:, 1:] + values[:, :-1, 1:]) * 0.5
        middles = (distances[:, 1:] + distances[:, :-1]) * 0.5
        opacity = weights.sum(1, keepdims=True)
        depth = (weights * middles).sum(1, keepdims=True)
        return summed(weights, colors), opacity, depth, distances[:, :1], distances[:, -1:]


class EvenSamples(nn.Cell):
    """The renderer of TripoSR for rays in the box [-radius, radius]^3.

    A ray's length counts as 1, whatever it is: the density is that of the network's training.
    """

    def __init__(self, decoder, reader, samples, radius, scenes=1):
        super().__init__(auto_prefix=False)
        self.points = Points(decoder, reader)
        self.samples, self.scenes, self.radius = samples, scenes, radius
        self.composite = Composite(samples)
        places = (np.arange(samples, dtype=np.float32) + 0.5) / samples
        self.places = Tensor(places.reshape(1, -1))

    def construct(self, table, origins, directions, near, far, valid):
        """Render rays: origins, directions (N, 3), near, far, valid (N, 1); of all scenes in turn.
        """
        distances = near + self.places * (far - near)
        rays, samples = distances.shape
        points = directions.reshape(rays, 1, 3) * distances.reshape(rays, samples, 1)
        points = (points + origins.reshape(rays, 1, 3)) * (1 / self.radius)
        raw, color = self.points(table, points.reshape(self.scenes, -1, 3))
        density = self.points.decoder.density(raw).reshape(rays, samples) * valid
        weights = self.composite(density, 1.0 / samples)
        color = summed(weights, color.reshape(rays, samples, 3))
        depth = (weights * distances).sum(1, keepdims=True)
        opacity = weights.sum(1, keepdims=True)
        return color, opacity, depth, distances[:, :1], distances[:, -1:]
