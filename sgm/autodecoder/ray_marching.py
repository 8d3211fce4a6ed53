"""Rays through volumes of density and color, with static shapes and gradients of everything.

The volumes are the field: trilinear lookup, no network, no view direction (Ntavelis et al. 2023,
arXiv 2307.05445, section 3.1). Compositing is NeRF's (Mildenhall et al. 2020, arXiv 2003.08934,
eq. 3) with the transmittance as exp(-cumulative sum).

The volumes fill the box [-0.5, 0.5]^3, values at the middles of voxels. Objects that are seen by
the same cameras share the voxels that a sample lies between, and the weights: they lie side by side
in the rows of one table (*members*), and one lookup reads all of them. Objects with cameras of
their own are *groups*, whose tables follow each other.
"""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from sgm.ops.tokens import matmul, ones

HALF = 0.5              # of the box's side
DENSITY_BIAS = -5.0     # an untrained volume lets 80 % of the light through
FLAT = 1e-6             # a direction's component below it runs along a face of the box


class Softplus(nn.Cell):
    """ln(1 + e^x), of operators in sgm/audit/operators.yaml, with the sigmoid as its gradient."""

    def construct(self, x):
        """Return values above 0."""
        return P.relu(x) + P.log(1 + P.exp(-P.abs(x)))

    def bprop(self, x, out, dout):
        """Return the gradient."""
        return (dout * P.sigmoid(x),)


class Trilinear(nn.Cell):
    """Reads a table between its rows: (N, width) = sum over 8 corners of weight times row.

    table (rows, width), indices int32 (8, N), weights (8, N). The gradients go to table and
    weights.
    """

    def construct(self, table, indices, weights):
        """Return the interpolated rows."""
        return (P.gather(table, indices, 0) * weights.reshape(weights.shape + (1,))).sum(0)

    def bprop(self, table, indices, weights, out, dout):
        """Give the rows that were read their weighted share, the weights their products."""
        count, width = dout.shape
        dout = dout.reshape(1, count, width)
        shares = (dout * weights.reshape(weights.shape + (1,))).reshape(-1, width)
        dtable = P.scatter_nd(indices.reshape(-1, 1), shares, table.shape)
        dweights = (dout * P.gather(table, indices, 0)).sum(-1)
        return dtable, P.zeros_like(indices), dweights


def enter_box(origins, directions):
    """Return the distances (N,) at which rays enter and leave the box; equal where they miss it.

    origins, directions (3, N).
    """
    small = P.cast(P.abs(directions) < FLAT, ms.float32)
    inverse = 1 / (directions * (1 - small) + FLAT * small)
    first, second = (-HALF - origins) * inverse, (HALF - origins) * inverse
    # The largest is the negative of the least of negatives: sgm/audit/operators.yaml has Minimum.
    enter, leave = -P.minimum(first, second), -P.minimum(-first, -second)
    near = P.relu(-P.minimum(P.minimum(enter[0], enter[1]), enter[2]))
    far = P.minimum(P.minimum(leave[0], leave[1]), leave[2])
    return near, -P.minimum(-far, -near)


class RayMarcher(nn.Cell):
    """Renders rays of groups of objects.

    side: of the volumes; samples: on a ray; groups: how many tables there are; members: objects in
    each.
    """

    def __init__(self, side, samples, groups, members):
        super().__init__(auto_prefix=False)
        self.side, self.samples, self.groups, self.members = side, samples, groups, members
        self.steps = Tensor(np.arange(samples, dtype=np.float32).reshape(-1, 1))
        before = np.tril(np.ones((samples, samples), np.float32), -1)
        self.before = Tensor(before)
        corners = np.indices((2, 2, 2)).reshape(3, 8)
        self.corners = Tensor(corners.astype(np.float32).reshape(3, 8, 1))
        offsets = (corners * np.array([[side * side], [side], [1]])).sum(0)
        self.offsets = Tensor(offsets.astype(np.int32).reshape(8, 1))
        self.first = Tensor(np.arange(groups, dtype=np.int32) * side ** 3)
        self.interpolate, self.softplus = Trilinear(), Softplus()

    def table(self, volumes):
        """Return the table (groups * side^3, 4 * members) of raw volumes (objects * side^3, 4).

        Its columns are the members' densities, then their reds, greens and blues.
        """
        if self.members == 1:
            return volumes
        volumes = volumes.reshape(self.groups, self.members, self.side ** 3, 4)
        return volumes.transpose(0, 2, 3, 1).reshape(-1, 4 * self.members)

    def lookup(self, points, count):
        """Return indices (8, N) and weights (8, N) of points: x, y, z (S, groups * count) each.

        Rows of a volume run over z, then y, then x.
        """
        bases, fractions = (), ()
        for value in points:
            place = P.clamp((value + HALF) * self.side - 0.5, 0.0, self.side - 1.0)
            # not below 0, where a cast to integers would round up
            base = P.cast(P.stop_gradient(P.clamp(place, 0.0, self.side - 2.0)), ms.int32)
            bases = bases + (base,)
            fractions = fractions + ((place - P.cast(base, ms.float32)).reshape(1, -1),)
        base = (bases[2] * self.side + bases[1]) * self.side + bases[0]
        if self.groups > 1:
            base = base + self.first_rows(count)
        base = base.reshape(1, -1) + self.offsets
        weights = ()
        for axis in (0, 1, 2):
            corner, fraction = self.corners[axis], fractions[2 - axis]
            weights = weights + (corner * fraction + (1 - corner) * (1 - fraction),)
        return base, weights[0] * weights[1] * weights[2]

    def first_rows(self, count):
        """Return the first row of each ray's table: (1, groups * count) int32."""
        first = self.first.reshape(self.groups, 1).broadcast_to((self.groups, count))
        return first.reshape(1, -1)

    def construct(self, volumes, origins, directions, jitter):
        """Return colors before a black background and opacity: (4, rays, members).

        volumes (objects * side^3, 4) raw, density first; origins, directions (3, rays), unit, the
        rays of one group after those of the other; jitter (samples, rays) in [0, 1): the place of a
        sample in its stretch, 0.5 for the middle. The first three of the four are the color,
        premultiplied.
        """
        rays = origins.shape[1]
        near, far = enter_box(P.stop_gradient(origins), P.stop_gradient(directions))
        delta = (far - near).reshape(1, rays) * (1.0 / self.samples)
        t = near.reshape(1, rays) + (self.steps + jitter) * delta
        points = ()
        for axis in (0, 1, 2):
            points = points + (origins[axis].reshape(1, rays)
                               + t * directions[axis].reshape(1, rays),)
        indices, weights = self.lookup(points, rays // self.groups)
        rows = self.interpolate(self.table(volumes), indices, weights)
        # Each sample of a ray is a row, each ray of a member a column.
        members, shape = self.members, (self.samples, rays * self.members)
        delta = matmul(delta.reshape(rays, 1), ones(1, members)).reshape(1, -1)
        density = self.side * self.softplus(rows[:, :members] + DENSITY_BIAS)
        tau = density.reshape(shape) * delta
        shares = P.exp(-matmul(self.before, tau)) * (1 - P.exp(-tau))
        column, result = ones(1, self.samples), ()
        for k in (1, 2, 3):
            color = P.sigmoid(rows[:, k * members:(k + 1) * members]).reshape(shape)
            result = result + (matmul(column, shares * color),)
        result = result + (matmul(column, shares),)
        return P.concat(result, 0).reshape(4, rays, members)
