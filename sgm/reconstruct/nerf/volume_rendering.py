"""Volume rendering with static shapes: samples along rays (host), compositing and losses (device).

The emission-absorption model of NeRF (Mildenhall et al. 2020, arXiv 2003.08934, eq. 3),
transmittance as exp(-cumulative sum), which has no product whose gradient divides by zero.
"""
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P
from numba import njit

from sgm.ops import scatter
from sgm.reconstruct.hull import sdf_grid
from sgm.reconstruct.hull.sdf_grid import enter_box

STEPS_PER_CELL = 2          # steps per cell of the march through the occupancy grid
EPS = 1e-4  # added under the root of the photometric loss; 0.01 is a small difference


@njit(cache=True)
def place_samples(origins, directions, occupied, density, half, jitter, uniform, t, delta):
    """Place S samples on each ray, in occupied cells, where a cached density makes them matter.

    origins, directions (N, 3) unit; occupied (R, R, R) bool and density (R, R, R) float32, per unit
    of length, of the cells of the box [-half, half]^3; jitter (N, S) in [0, 1): 0.5 everywhere
    gives the strata's middles. uniform: share of the samples spread evenly over the occupied
    length, whatever the density.
    Fills t (N, S), ascending distances, and delta (N, S), the occupied length each sample stands
    for: empty space between two samples does not count. Rays that meet nothing get t = 0, delta =
    0.

    The ray is cut into steps; step b has the probability p_b = uniform / B + (1 - uniform) (w_b +
    (1 - sum w) / B) of its weight w_b, the B occupied steps sharing what passes through. Sample k
    lies in the k-th of S equal slices of the cumulative distribution (stratified inverse sampling).
    """
    cells = occupied.shape[0]
    step = 2 * half / cells / STEPS_PER_CELL
    most = int(np.ceil(2 * half * np.sqrt(3.0) / step)) + 2
    weight, place = np.empty(most), np.empty(most)
    samples = t.shape[1]
    for n in range(len(origins)):
        ox, oy, oz = origins[n, 0], origins[n, 1], origins[n, 2]
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        near, far = enter_box(ox, oy, oz, dx, dy, dz, half)
        # The occupied steps of the ray, and how much of its light each one stops.
        count, left, start = 0, 1.0, near
        while start < far:
            middle = start + 0.5 * step
            i = int((ox + middle * dx + half) / (2 * half) * cells)
            j = int((oy + middle * dy + half) / (2 * half) * cells)
            k = int((oz + middle * dz + half) / (2 * half) * cells)
            if 0 <= i < cells and 0 <= j < cells and 0 <= k < cells and occupied[i, j, k]:
                passed = left * np.exp(-density[i, j, k] * step)
                weight[count], place[count] = left - passed, start
                left = passed
                count += 1
            start += step
        if count == 0:
            t[n], delta[n] = 0.0, 0.0
            continue
        # One sample in each slice of equal probability; its length is that of the slice.
        even = (uniform + (1 - uniform) * left) / count
        b, done = 0, 0.0                                # done: of step b's probability
        p = (1 - uniform) * weight[0] + even
        for s in range(samples):
            length, need = 0.0, 1.0 / samples
            until = jitter[n, s] / samples  # probability of this slice before the sample
            t[n, s] = place[b] + step * min(done / p, 1.0)
            while need > 1e-12:
                take = min(p - done, need)
                if until >= 0:
                    t[n, s] = place[b] + step * (done + min(until, take)) / p
                    until = until - take if until > take else -1.0
                length += take / p
                done += take
                need -= take
                if p - done <= 1e-12:
                    if b == count - 1:
                        break
                    b, done = b + 1, 0.0
                    p = (1 - uniform) * weight[b] + even
            delta[n, s] = length * step


def sampled(origins, directions, occupied, density, half, count, rng=None, uniform=0.25):
    """Return t, delta (N, count) float32 of `place_samples`, as new arrays.

    rng: a RandomState; None puts samples in the middle.
    """
    shape = (len(origins), count)
    jitter = np.full(shape, 0.5) if rng is None else rng.random_sample(shape)
    t, delta = np.empty(shape, np.float32), np.empty(shape, np.float32)
    place_samples(origins, directions, occupied, density, half, jitter, uniform, t, delta)
    return t, delta


def occupancy(sdf, half, cells, margin):
    """Return which cells hold a point where the grid is below `margin` (box units).

    The result is (cells,) * 3 bool, found by the cells' 27 corners, middles of edges and faces.
    """
    ticks = np.linspace(-half, half, 2 * cells + 1)
    points = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = (sdf_grid.sample(sdf, half, points) < margin).reshape((2 * cells + 1,) * 3)
    for axis in range(3):
        low, middle, high = (
            np.take(inside, range(k, 2 * cells - 1 + k, 2), axis=axis) for k in range(3)
        )
        inside = low | middle | high
    return inside


@njit(cache=True)
def surface_depth(sigma, delta, t, share):
    """Return depth (N,) where a ray has lost `share` of its final opacity, and that opacity (N,).

    float32; sigma, delta, t: (N, S).
    """
    rays, samples = sigma.shape
    depth, opacity = np.zeros(rays, np.float32), np.zeros(rays, np.float32)
    for n in range(rays):
        total = 0.0
        for s in range(samples):
            total += sigma[n, s] * delta[n, s]
        opacity[n] = 1 - np.exp(-total)
        aim = -np.log(max(1 - share * opacity[n], 1e-12))
        passed = 0.0
        for s in range(samples):
            tau = sigma[n, s] * delta[n, s]
            if passed + tau >= aim or s == samples - 1:
                # position in this sample's stretch around t
                inside = min(max((aim - passed) / max(tau, 1e-12), 0.0), 1.0)
                depth[n] = t[n, s] + (inside - 0.5) * delta[n, s]
                break
            passed += tau
    return depth, opacity


class Composite(nn.Cell):
    """Weights of samples: (N, S) = T (1 - exp(-sigma delta)), T = exp(-sum of sigma delta before).

    sigma, delta: (N, S). The exclusive cumulative sum is a product with a triangular matrix: a
    matmul, and its gradient, are fast everywhere.
    """

    def __init__(self, samples):
        super().__init__(auto_prefix=False)
        self.before = Tensor(np.triu(np.ones((samples, samples), np.float32), 1))

    def construct(self, sigma, delta):
        """Return the weights."""
        tau = sigma * delta
        return P.exp(-P.matmul(tau, self.before)) * (1 - P.exp(-tau))

    def sums_before(self, values):
        """Return exclusive cumulative sums along the samples of (N, S)."""
        return P.matmul(values, self.before)


def accumulate(weights, values):
    """Return the sum over samples (N, C): weights (N, S), values (N S, C)."""
    rays, samples = weights.shape
    return (weights.reshape(rays, samples, 1) * values.reshape(rays, samples, -1)).sum(1)


def squared(x):
    """Return x^2, by the one operator for it that every device's tables name."""
    return x * x


def photometric(color, target):
    """Return the mean over rays of sqrt(|color - target|^2 + EPS): (N, 3) each."""
    return P.sqrt(squared(color - target).sum(-1) + EPS).mean()


def distortion(composite, weights, t, delta):
    """Return the distortion loss of Mip-NeRF 360 (arXiv 2111.12077, eq. 15).

    It is the mean over rays of sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 delta_i. t is
    ascending, so the double sum is 2 sum_i w_i (t_i W_i - M_i), W and M sums of w and w t before i.
    """
    pairs = weights * (t * composite.sums_before(weights) - composite.sums_before(weights * t))
    return (2 * pairs.sum(-1) + (weights * weights * delta).sum(-1) / 3).mean()


def depth_smoothness(depth, inside):
    """Return the mean over patches of squared depth differences to the right and lower neighbor.

    RegNeRF, arXiv 2112.00724, eq. 5. depth, inside (N,): rays in patches of four, row by row;
    inside = 1 where the ray meets the object for certain: only patches that lie wholly inside
    count.
    """
    d, m = depth.reshape(-1, 4), inside.reshape(-1, 4)
    whole = m[:, 0] * m[:, 1] * m[:, 2] * m[:, 3]
    steps = squared(d[:, 0] - d[:, 1]) + squared(d[:, 0] - d[:, 2])
    return (whole * steps).mean()


def total_variation(table, pairs, count):
    """Return the mean squared difference of the table's rows `pairs`.

    pairs (2 count,) int32: first the one end, then the other.
    """
    ends = scatter.take(table, pairs)
    return squared(ends[:count] - ends[count:]).mean()
