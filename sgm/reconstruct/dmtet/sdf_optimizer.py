"""The optimizer of the SDF grid: gradient blur, Laplacian smoothing, Adam with relative epsilon.

Numpy, numba and scipy, host. Adam (Kingma & Ba 2015) gives every value the same speed, however weak
its gradient. Where no view sees the surface only the smoothing would act, and Adam would make it
drift at full speed (measured: it filled a mug's inside). So epsilon is a share of the gradient's
usual size instead of 1e-8, and a value that no picture has ever moved is not smoothed. Hidden parts
may follow, though: their change is then the harmonic one between those of the parts around them, so
that a hidden base moves with its visible rim, and nothing hidden moves when nothing around it does.
"""
import numpy as np
from numba import njit

from sgm.reconstruct.hull.sdf_grid import blurred

BETAS = (0.9, 0.98)
# cells: the smoothing falls as exp(-(s / 2 REACH cells)^2) with the distance s to the surface
REACH = 2.0
MEMORY = 0.9        # share of the gradient's mean square that is kept from step to step
BAND = 3.0          # cells: the hidden part that follows is this thick on both sides of the surface
SWEEPS = 4          # sweeps of relaxation per step


@njit(cache=True)
def _smoothing(sdf, cell, seen, laplacian, sign_change, crossed, out):
    """Add the smoothing's gradient, in units of the data's: see `SdfOptimizer.step`."""
    n = sdf.shape[0]
    for x in range(1, n - 1):
        for y in range(1, n - 1):
            for z in range(1, n - 1):
                if not seen[x, y, z]:
                    continue
                s = sdf[x, y, z] / cell
                if abs(s) < 3 * REACH and laplacian > 0:
                    mean = (
                        sdf[x - 1, y, z]
                        + sdf[x + 1, y, z]
                        + sdf[x, y - 1, z]
                        + sdf[x, y + 1, z]
                        + sdf[x, y, z - 1]
                        + sdf[x, y, z + 1]
                    ) / (6 * cell)
                    out[x, y, z] += laplacian * np.exp(-(s / (2 * REACH)) ** 2) * (s - mean)
                if crossed[x, y, z] and sign_change > 0:
                    out[x, y, z] += sign_change * np.sign(s) / (1 + np.exp(-abs(s)))


@njit(cache=True)
def relax_hidden(change, start, seen, band, sweeps):
    """Relax the change of what is not seen by Gauss-Seidel sweeps of Laplace's equation.

    It acts within `band` around the surface at the start.
    """
    n = change.shape[0]
    for sweep in range(sweeps):
        for i in range(1, n - 1):
            x = i if sweep % 2 == 0 else n - 1 - i
            for j in range(1, n - 1):
                y = j if sweep % 2 == 0 else n - 1 - j
                for k in range(1, n - 1):
                    z = k if sweep % 2 == 0 else n - 1 - k
                    if seen[x, y, z] or abs(start[x, y, z]) > band:
                        continue
                    total, count = 0.0, 0
                    for d in (-1, 1):
                        for u, v, w in ((x + d, y, z), (x, y + d, z), (x, y, z + d)):
                            inner = 0 < min(u, v, w) and max(u, v, w) < n - 1
                            if seen[u, v, w] or (inner and abs(start[u, v, w]) <= band):
                                total += change[u, v, w]
                                count += 1
                    if count:
                        change[x, y, z] = total / count


class Adam:
    """Adam of an array on the host, with an epsilon that is given at each step."""

    def __init__(self, shape):
        self.m, self.v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.steps = 0

    def update(self, gradient, lr, eps):
        """Return what to subtract from the values."""
        self.steps += 1
        self.m += (1 - BETAS[0]) * (gradient - self.m)
        self.v += (1 - BETAS[1]) * (gradient * gradient - self.v)
        root = np.sqrt(self.v / np.float32(1 - BETAS[1] ** self.steps))
        return np.float32(lr / (1 - BETAS[0] ** self.steps)) * self.m / (root + np.float32(eps))

    def state(self):
        """Return {name: array}."""
        return {"m": self.m, "v": self.v, "steps": np.array(self.steps)}

    def restore(self, arrays):
        """Take over what `state` returned."""
        self.m, self.v, self.steps = arrays["m"].copy(), arrays["v"].copy(), int(arrays["steps"])


class SdfOptimizer:
    """The state of an SDF grid's optimization.

    sdf: the grid at the start, over [-half, half]^3. settings: a `DMTetSpec`, of which blur,
    laplacian, sign_change, damping and follow are used.
    """

    def __init__(self, sdf, half, settings):
        self.settings, self.cell, self.start = settings, 2 * half / (sdf.shape[0] - 1), sdf.copy()
        self.adam, self.seen, self.mean_square = Adam(sdf.shape), np.zeros(sdf.shape, bool), 0.0

    def step(self, sdf, gradient, crossed, lr):
        """Return the next values of the grid.

        gradient (R + 1,) * 3: that of the data; crossed, bool: ends of edges that the surface
        crosses.
        The smoothing is relative to the root mean square r of the data's gradient where it acts:
        the gradient that is followed is g + r (laplacian w (s - mean of the six around) +
        sign_change sign(s) sigmoid(|s|)), s in cells. The last term is the cross-entropy of
        nvdiffrec (Munkberg et al. 2022, eq. 2): of a crossed edge, each end is pulled to the
        other's sign.
        """
        settings = self.settings
        gradient = blurred(gradient, settings.blur, "constant")
        moved = gradient != 0
        self.seen |= moved
        if moved.any():
            now = float(np.square(gradient[moved], dtype=np.float64).mean())
            self.mean_square = (
                now if self.mean_square == 0 else MEMORY * self.mean_square + (1 - MEMORY) * now
            )
        scale = np.float32(np.sqrt(self.mean_square))
        if scale == 0:
            return sdf
        smoothing = np.zeros_like(sdf)
        _smoothing(
            sdf,
            np.float32(self.cell),
            self.seen,
            settings.laplacian,
            settings.sign_change,
            crossed,
            smoothing,
        )
        sdf = sdf - self.adam.update(gradient + scale * smoothing, lr, settings.damping * scale)
        if settings.follow:
            change = sdf - self.start
            relax_hidden(change, self.start, self.seen, np.float32(BAND * self.cell), SWEEPS)
            sdf = self.start + change
        return sdf

    def state(self):
        """Return {name: array} of everything that the next steps depend on."""
        return {
            **self.adam.state(),
            "seen": self.seen,
            "usual": np.array(self.mean_square),
            "start": self.start,
        }

    def restore(self, arrays):
        """Take over what `state` returned."""
        self.adam.restore(arrays)
        self.seen, self.start, self.mean_square = (
            arrays["seen"].copy(),
            arrays["start"].copy(),
            float(arrays["usual"]),
        )
