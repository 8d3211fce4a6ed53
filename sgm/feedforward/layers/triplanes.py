"""Planes of features: how they are made of tokens, and the density and color of a point in them.

A point reads each plane at its projection, bilinearly and with zeros outside; the features of the
three planes side by side go through a small network. Its first layer is linear and so is the
interpolation, so the layer is applied to the planes, once, and a point adds up what it reads:
the same numbers from fewer operations, and no grid_sample, whose gradient Ascend may lack.
"""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P
from mindspore.ops.primitive import constexpr

from sgm import ops
from sgm.models.blocks import Linear, empty
from sgm.ops import scatter
from sgm.ops.tokens import bias_add, bmm

# Which coordinates of a point are the column and the row of each plane.
PROJECTIONS = {"vfusion3d": ((0, 1), (0, 2), (2, 1)), "openlrm": ((0, 1), (0, 2), (2, 1)),
               "triposr": ((0, 1), (0, 2), (1, 2))}


@constexpr
def _zeros(*shape):
    """Return a float32 constant of zeros."""
    return Tensor(np.zeros(shape, np.float32))


class PlaneUpsampling(nn.Cell):
    """Transposed convolution whose kernel is its stride, as one product: no two outputs overlap.

    weight (in, out, k, k) and bias (out,) are those of PyTorch's ConvTranspose2d.
    """

    def __init__(self, width, channels, factor):
        super().__init__()
        self.weight = empty(width, channels, factor, factor)
        self.bias = empty(channels)

    def construct(self, x, count, side):
        """Map tokens (count * 3 * side * side, width) to planes (count, 3, C, k side, k side)."""
        width, channels, k, _ = self.weight.shape
        x = P.matmul(x, self.weight.reshape(width, channels * k * k))
        x = x.reshape(count * 3, side, side, channels, k, k).transpose(0, 3, 1, 4, 2, 5)
        x = x.reshape(count, 3, channels, k * side, k * side)
        return x + self.bias.reshape(1, 1, channels, 1, 1)


class PointDecoder(nn.Cell):
    """The network from features to raw density and color; subclasses name its layers.

    features: channels of each plane.
    """

    def __init__(self, spec, features):
        super().__init__()
        self.features = features
        widths = [3 * features] + [spec.width] * (spec.layers - 1) + [4]
        layers = []
        for width_in, width_out in zip(widths[:-1], widths[1:]):
            layers += [Linear(width_in, width_out), nn.Identity()]
        self.count = 2 * spec.layers - 1
        self.made = layers[:-1]

    def project(self, planes):
        """Apply the first layer to planes (B, 3, C, R, R): rows (3 B (R + 2)^2, width).

        They are in the order plane, scene, row, column, with a border of zeros around each plane.
        """
        scenes, _, channels, side, _ = planes.shape
        weight = self.first().weight
        width = weight.shape[0]
        cells = (side + 2) * (side + 2)
        row, column = _zeros(3, scenes, 1, side, channels), _zeros(3, scenes, side + 2, 1, channels)
        rows = P.concat((row, planes.transpose(1, 0, 3, 4, 2), row), 2)
        rows = P.concat((column, rows, column), 3)
        weight = weight.reshape(width, 3, channels).transpose(1, 2, 0)
        return bmm(rows.reshape(3, scenes * cells, channels), weight).reshape(-1, width)

    def follow(self, hidden, layers):
        """Map sums of the first layer (rows, width), without its bias, to (rows, 4)."""
        hidden = bias_add(hidden, layers[0].bias)
        for i in range(2, self.count, 2):
            hidden = layers[i](self.activate(hidden))
        return hidden


class Softplus(nn.Cell):
    """log(1 + e^x), with its own gradient: Ascend has no documented one of MindSpore's."""

    def construct(self, x):
        """Return it, by e^-|x|, which cannot overflow."""
        return P.relu(x) + P.log(1 + P.exp(-P.abs(x)))

    def bprop(self, x, out, dout):
        """Return the gradient, which is the sigmoid."""
        return (dout * P.sigmoid(x),)


class ReluDecoder(PointDecoder):
    """The published `synthesizer.decoder.net` of VFusion3D and OpenLRM."""

    def __init__(self, spec, features):
        super().__init__(spec, features)
        self.net = nn.CellList(self.made)
        self.softplus = Softplus()

    def first(self):
        """Return the first layer."""
        return self.net[0]

    def activate(self, x):
        """Return what a hidden layer passes on."""
        return P.relu(x)

    def density(self, raw):
        """Return density per unit of length of the box."""
        return self.softplus(raw - 1)

    def construct(self, hidden):
        """Map sums of the first layer (rows, width) to raw density (rows, 1), color (rows, 3)."""
        out = self.follow(hidden, self.net)
        # a wider sigmoid than to [0, 1], whose ends can be reached (Mip-NeRF, arXiv 2103.13415)
        return out[:, :1], P.sigmoid(out[:, 1:]) * 1.002 - 0.001


class SiluDecoder(PointDecoder):
    """The published `decoder.layers` of TripoSR."""

    def __init__(self, spec, features):
        super().__init__(spec, features)
        self.layers = nn.CellList(self.made)

    def first(self):
        """Return the first layer."""
        return self.layers[0]

    def activate(self, x):
        """Return what a hidden layer passes on."""
        return ops.silu(x)

    def density(self, raw):
        """Return density per length of the ray inside the box."""
        return P.exp(raw - 1)

    def construct(self, hidden):
        """Map sums of the first layer (rows, width) to raw density (rows, 1), color (rows, 3)."""
        out = self.follow(hidden, self.layers)
        return out[:, :1], P.sigmoid(out[:, 1:])


class PlaneReader(nn.Cell):
    """Reads rows of `PointDecoder.project`, or of other tables in its order, at points.

    side: of the planes, without the border.
    """

    def __init__(self, side, projections):
        super().__init__(auto_prefix=False)
        self.side, self.projections = side, projections

    def corners(self, points):
        """Return what points (B, N, 3) in units of the box's half side read: index and weight.

        index int32 (B * N, 12), weight (B * N, 12): four neighbors in each of three planes.
        """
        scenes, count, _ = points.shape
        wide = self.side + 2
        # Coordinates in the bordered plane. Beyond it, all weight is on the border, which is 0.
        place = P.clamp((points + 1) * (0.5 * self.side) + 0.5, 0.0, self.side + 1.0)
        low = P.minimum(P.floor(place), Tensor(np.float32(self.side)))
        share, low = place - low, low.astype(ms.int32)
        index, weight = (), ()
        start = P.arange(0, scenes).astype(ms.int32).reshape(scenes, 1) * (wide * wide)
        for plane, (u, v) in enumerate(self.projections):
            first = low[:, :, v] * wide + low[:, :, u] + (start + plane * scenes * wide * wide)
            right, down = share[:, :, u], share[:, :, v]
            index += (first, first + 1, first + wide, first + wide + 1)
            weight += ((1 - right) * (1 - down), right * (1 - down), (1 - right) * down,
                       right * down)
        shape = (scenes * count, 12)
        return P.stack(index, 2).reshape(shape), P.stack(weight, 2).reshape(shape)

    def construct(self, table, points):
        """Return the sums (B * N, width) of what points (B, N, 3) read in a table of rows."""
        index, weight = self.corners(points)
        rows, reads = index.shape
        found = scatter.take(table, index.reshape(-1)).reshape(rows, reads, -1)
        return bmm(weight.reshape(rows, 1, reads), found).reshape(rows, -1)


def interpolation_matrix(side, count):
    """Return what reads a plane at `count` points from edge to edge of the box: (count, side + 2).

    It is the interpolation of `PlaneReader` along one axis of a bordered plane.
    """
    place = np.clip((np.linspace(-1, 1, count) + 1) * (0.5 * side) + 0.5, 0, side + 1)
    low = np.minimum(np.floor(place), side).astype(int)
    matrix = np.zeros((count, side + 2), np.float32)
    matrix[np.arange(count), low] = 1 - (place - low)
    matrix[np.arange(count), low + 1] = place - low
    return matrix


class GridRows(nn.Cell):
    """Reads the planes of one scene wherever a regular grid of `count`^3 points projects to."""

    def __init__(self, side, count, projections):
        super().__init__(auto_prefix=False)
        self.side = side
        self.matrix = Tensor(interpolation_matrix(side, count))
        self.turned = projections[2] == (1, 2)          # rows of the third plane are z, not y

    def construct(self, table):
        """Map rows (3 (R + 2)^2, width) to those at [y, x], at [z, x], at [y, z]: (G, G, width)."""
        wide, width = self.side + 2, table.shape[1]
        matrix = self.matrix.reshape(1, -1, wide)
        count = matrix.shape[1]
        x = table.reshape(3, wide, wide * width)
        x = bmm(matrix.broadcast_to((3, count, wide)), x).reshape(3 * count, wide, width)
        x = bmm(matrix.broadcast_to((3 * count, count, wide)), x)
        x = x.reshape(3, count, count, width)
        third = x[2]
        if self.turned:
            third = third.transpose(1, 0, 2)
        return x[0], x[1], third


class GridSlab(nn.Cell):
    """The activated density at the points of a regular grid that share their x."""

    def __init__(self, decoder):
        super().__init__(auto_prefix=False)
        self.decoder = decoder

    def construct(self, first, second, third, x):
        """Map what `GridRows` gives to density (G, G) over y and z; x: int32 (1,), which slab."""
        count, _, width = third.shape
        first = P.gather(first, x, 1)
        second = P.gather(second, x, 1).reshape(1, count, width)
        hidden = (third + first + second).reshape(count * count, width)
        raw, _ = self.decoder(hidden)
        return self.decoder.density(raw).reshape(count, count)
