"""The radiance field: an encoding's table and small MLPs give density and color of points.

Instant-NGP's field (Mueller et al. 2022, arXiv 2201.05989) on any `encoding.Levels`. The table's
gradient is written out: a scatter-add of the corners' weighted gradients. Automatic differentiation
makes the same, several times slower.
"""
import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.reconstruct.nerf import encoding

DENSITY_BOUNDS = (-8.0, 8.0)     # bounds of the exponent; e^8 per unit is opaque in any cell here
SH_WIDTH = 16
CHUNK = 65536                    # points evaluated in one call, all in one static shape


class Interpolate(nn.Cell):
    """Interpolation in the table, whose gradient goes to the table alone.

    y[m] = sum over corners c of table[indices[c, m]] * weights[c, m]. table (E, F), indices int32
    (C, M), weights (C, M, F or 1); the result is (M, F).
    """

    def __init__(self, entries, features):
        super().__init__(auto_prefix=False)
        self.shape = (entries, features)
        self.features = features

    def construct(self, table, indices, weights):
        """Return the interpolated rows."""
        return (P.gather(table, indices, 0) * weights).sum(0)

    def bprop(self, table, indices, weights, out, dout):
        """Return the gradients: the rows that were read get their weighted share of `dout`."""
        shares = (dout.reshape(1, -1, self.features) * weights).reshape(-1, self.features)
        return (
            P.scatter_nd(indices.reshape(-1, 1), shares, self.shape),
            P.zeros_like(indices),
            P.zeros_like(weights),
        )


class TruncExp(nn.Cell):
    """Exp with a bounded exponent, whose gradient does not vanish at the bounds.

    It is Instant-NGP's density activation.
    """

    def construct(self, x):
        """Return the bounded exponential."""
        return P.exp(P.clamp(x, *DENSITY_BOUNDS))

    def bprop(self, x, out, dout):
        """Return the gradient, which is the bounded exponential again."""
        return (dout * out,)


class Field(nn.Cell):
    """The radiance field: points of the box [-half, half]^3 to density and color.

    levels: an `encoding.Levels`. width: of the hidden layers; with `directional`, color depends on
    the viewing direction through spherical harmonics of degree 3 (Instant-NGP), without, on the
    point alone: albedo with baked light, which is what a texture can hold. seed: of the initial
    weights, numpy's.

    The host makes indices and weights (`encode`), so that graphs have static shapes and no integer
    arithmetic: `field(*field.encode(points))` gives raw density (N,), rgb (N, 3) in [0, 1].
    """

    def __init__(self, levels, half, width=32, directional=False, seed=0):
        super().__init__()
        self.levels, self.half, self.directional = levels, float(half), directional
        rng = np.random.RandomState(seed)
        inputs, more = len(levels) * levels.features, SH_WIDTH if directional else 0
        self.inputs = inputs
        self.table = Parameter(
            Tensor(rng.uniform(-1e-2, 1e-2, (levels.entries, levels.features)).astype(np.float32)),
            name="table",
        )
        self.hidden = _weight(rng, inputs, width, "hidden")
        self.hidden_bias = Parameter(Tensor(np.zeros(width, np.float32)), name="hidden_bias")
        self.density = _weight(rng, width, 1, "density")
        self.density_bias = Parameter(Tensor(np.full(1, 1, np.float32)), name="density_bias")
        self.second = _weight(rng, width + more, width, "second")
        self.second_bias = Parameter(Tensor(np.zeros(width, np.float32)), name="second_bias")
        self.color = _weight(rng, width, 3, "colour")
        self.color_bias = Parameter(Tensor(np.zeros(3, np.float32)), name="colour_bias")
        self.interpolate = Interpolate(levels.entries, levels.features)
        self.activate = TruncExp()
        self.evaluator = None

    def encode(self, points, out=None):
        """Return indices int32 (8, N L) and weights float32 (8, N L, `copies`) of points (N, 3).

        Numpy; see `encoding.encode`.
        """
        return encoding.encode(points, self.half, self.levels, out, self.copies)

    @property
    def copies(self):
        """Return how often a weight is repeated.

        An NPU multiplies with one as fast as with F of them, and all of them have to be sent to it
        from the host.
        """
        return 1 if ops.on_ascend() else self.levels.features

    def construct(self, indices, weights, harmonics=None):
        """Return raw density (N,) (see `sigma`) and rgb (N, 3) in [0, 1].

        harmonics (N, 16): those of a directional field's rays; None counts as all zero, the color
        without its directional part.
        """
        features = self.interpolate(self.table, indices, weights).reshape(-1, self.inputs)
        hidden = P.relu(P.bias_add(P.matmul(features, self.hidden), self.hidden_bias))
        density = P.bias_add(P.matmul(hidden, self.density), self.density_bias).reshape(-1)
        if self.directional:
            if harmonics is None:
                harmonics = P.zeros((hidden.shape[0], SH_WIDTH), ms.float32)
            hidden = P.concat((hidden, harmonics), axis=1)
        hidden = P.relu(P.bias_add(P.matmul(hidden, self.second), self.second_bias))
        return density, P.sigmoid(P.bias_add(P.matmul(hidden, self.color), self.color_bias))

    def sigma(self, raw):
        """Return density per unit of length of the box from raw density."""
        return self.activate(raw)

    def evaluate(self, points, chunk=CHUNK):
        """Return density (N,) and color (N, 3) of points, numpy to numpy float32.

        It is done in calls of one static shape.
        """
        if self.evaluator is None:
            self.evaluator = ops.compiled(Evaluator(self).construct)
        sigma, rgb = np.empty(len(points), np.float32), np.empty((len(points), 3), np.float32)
        for start in range(0, len(points), chunk):
            part = points[start:start + chunk]
            count = len(part)
            if count < chunk:
                part = np.concatenate([part, np.zeros((chunk - count, 3), part.dtype)])
            indices, weights = self.encode(part)
            raw, color = self.evaluator(Tensor.from_numpy(indices), Tensor.from_numpy(weights))
            sigma[start:start + count] = np.exp(np.clip(ops.fetch(raw)[:count], *DENSITY_BOUNDS))
            rgb[start:start + count] = color.asnumpy()[:count]
        return sigma, rgb

    def forget_graphs(self):
        """Forget what was compiled; it is compiled again when next evaluated.

        Call this before `ops.release`, which frees what was compiled.
        """
        self.evaluator = None


class Evaluator(nn.Cell):
    """The field as a graph of its own, without directions."""

    def __init__(self, field):
        super().__init__(auto_prefix=False)
        self.field = field

    def construct(self, indices, weights):
        """Return raw density and color."""
        return self.field(indices, weights)


def _weight(rng, inputs, outputs, name):
    """Return a Parameter (inputs, outputs) with He's initialization for ReLU."""
    values = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
    return Parameter(Tensor(values.astype(np.float32)), name=name)
