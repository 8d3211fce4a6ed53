"""Deep marching tetrahedra: a surface moved by the pictures it should give.

Shen et al., "Deep Marching Tetrahedra", NeurIPS 2021, and nvdiffrec (Munkberg et al., CVPR 2022), with the topology and
visibility of every step found on the host and the rest in one compiled graph of static shape: vertices from the values at
grid edges, colours of a field at surface points, outlines antialiased, losses, the field's update.

The field is asked on the host's points, so its colours carry no gradient to the surface by themselves. That along the ray,
which is all a pixel's colour depends on, is the difference to its colour a little further along.
"""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.common.errors import InputError
from sgm.ops import adam
from sgm.reconstruct.dmtet import marching_tets, pixel_batches, tet_grid
from sgm.reconstruct.dmtet.raster_gradients import (
    antialias,
    dot,
    interpolate,
    intersect,
    minus,
    place,
    take,
    unit,
    vertex_normals,
)
from sgm.reconstruct.dmtet.sdf_optimizer import Adam, Descent
from sgm.reconstruct.posed_views import HALF

ENDS = ("s_a", "s_b", "ax", "ay", "az", "bx", "by", "bz")


class RefineError(InputError):
    """Views or distances from which no surface can be refined; the message is one line and says what to do."""


class Loss(nn.Cell):
    """The loss of one batch; see `shading.Shading.batch` for what it takes, all of fixed length.

    N coloured pixels, the first G of which move the surface; Q outlines; E edges of the grid, M faces.
    """

    def __init__(self, field, settings):
        super().__init__(auto_prefix=False)
        self.field, self.pixels, self.geometry = field, settings.pixels, pixel_batches.geometry_rows(settings)
        self.mask, self.smooth = settings.mask, settings.smooth

    def construct(self, s_a, s_b, ax, ay, az, bx, by, bz, indices, weights, further, further_weights, f, g, h, near, far,
                  receiver, p, q, across, functionals, outline_eyes, target, wanted, shares, backdrop, a, b, c, directions,
                  eyes, moves, first, second, even):
        """-> loss; squared error of the colours over wanted pixels and the weight of these, for the PSNR."""
        vertices = marching_tets.device_crossings((s_a, s_b, ax, ay, az, bx, by, bz))
        _, colours = self.field(indices, weights)
        loss = 0.0
        if self.geometry:
            _, ahead = self.field(further, further_weights)
            shown = colours[:self.geometry]
            moved, loss = self.by_surface(vertices, (f, g, h), (a, b, c), eyes, directions, first, second, even)
            slope = P.stop_gradient(ahead - shown) * (moved * moves).reshape(-1, 1)
            colours = P.concat((shown + slope, colours[self.geometry:]), 0)
        colours = P.concat((colours, backdrop), 0)
        opacity = P.concat((P.ones((self.pixels, 1), ms.float32), P.zeros_like(backdrop[:, :1])), 0)
        eye, functional = P.unstack(outline_eyes, 0), P.unstack(functionals, 0)
        where = place(take(vertices, p), take(vertices, q), eye, (functional[0:3], functional[3:6], functional[6:9]))
        colours = antialias(colours, near, far, receiver, across, where)
        opacity = antialias(opacity, near, far, receiver, across, where).reshape(-1)
        error = P.square(colours - target).sum(-1)
        loss = loss + (shares * (error + self.mask * P.square(opacity - wanted))).sum()
        solid = shares * P.cast(wanted > 0.5, ms.float32)
        return loss, P.stop_gradient((solid * error).sum() / 3), solid.sum()

    def by_surface(self, vertices, faces, corners, eyes, directions, first, second, even):
        """How far the first G pixels' points have moved along their rays (0 in value, not in gradient), and the bilateral
        smoothness of normals: exp(-3 |dI|) (sqrt(1 + |dn|^2) - 1) of neighbouring pixels (SV3D, section 4)."""
        eye, direction = P.unstack(eyes, 0), P.unstack(directions, 0)
        i, j, k = corners
        a, b, c = take(vertices, i), take(vertices, j), take(vertices, k)
        depth, of_b, of_c = intersect(a, b, c, eye, direction)
        smooth = 0.0
        if self.smooth > 0:
            normals = vertex_normals(vertices, faces, vertices[0].shape[0])
            normal = interpolate(take(normals, i), take(normals, j), take(normals, k), of_b, of_c)
            normal = unit(normal, 1e-12)
            bend = minus(take(normal, first), take(normal, second))
            smooth = self.smooth * (even * (P.sqrt(1 + dot(bend, bend)) - 1)).sum()
        return depth - P.stop_gradient(depth), smooth


def adam_step(field, settings):
    """An AdamStep of the field, whose gradients are by the edges' values too, and by their places if the grid deforms."""
    inputs = tuple(range(len(ENDS) if settings.deformation > 0 else 2))
    return adam.AdamStep(Loss(field, settings), field.trainable_params(), "dmtet", inputs)


class Refiner:
    """A surface, its colours and the state of their optimisation; `state` and `restore` make a run resume bit for bit.

    `sgm.reconstruct.optimization.optimize` moves the surface, and trains the field along, until it renders as the views.
    views: `views.Views`, normalised. sdf (R + 1,) * 3: negative inside. field: a `field.Field`. settings: a `DMTetSpec`.
    Raises RefineError if the grid has no inside.
    """
    name = "dmtet"

    def __init__(self, views, sdf, field, settings, seed=0):
        if not np.isfinite(sdf).all() or not (sdf < 0).any():
            raise RefineError("dmtet: the distances it starts from have no inside, or are not finite; look at the masks and"
                              " poses of the views, and at the stages before")
        self.views, self.field, self.settings, self.seed = views, field, settings, seed
        self.resolution = sdf.shape[0] - 1
        self.sdf = tet_grid.sealed(sdf, HALF)
        self.descent = Descent(self.sdf, HALF, settings)
        self.deformation = np.zeros((self.sdf.size, 3), np.float32) if settings.deformation > 0 else None
        self.deforming = Adam((self.sdf.size, 3))
        self.adam = adam_step(field, settings)
        self.graph = ops.compiled(self.adam.construct)
        self.lengths, self.shadings, self.buffers = pixel_batches.Lengths(), {}, [None, None]
        self.done, self.history = 0, []

    @property
    def total(self):
        """Steps of all stages, done or not."""
        return sum(self.settings.steps)

    def surface(self):
        """The present `shading.Surface`."""
        return pixel_batches.surface_of(self.sdf, HALF, self.deformation, self.settings.deformation)

    def _stage(self):
        """Stage of the next step, and how many steps it has had."""
        before = self.done
        for stage, steps in enumerate(self.settings.steps):
            if before < steps:
                return stage, before
            before -= steps
        return stage, before

    def _chosen(self, stage, step):
        """The views of a step: all of them once, in random order, before one comes again."""
        count, total = min(self.settings.views[stage], len(self.views)), len(self.views)
        turns = range(step * count // total, ((step + 1) * count - 1) // total + 1)
        order = np.concatenate([np.random.RandomState([self.seed, stage, turn]).permutation(total) for turn in turns])
        start = step * count - turns[0] * total
        return np.unique(order[start:start + count])

    def step(self):
        """One step -> loss, PSNR of the object's pixels in dB. Raises RefineError when the loss is not finite."""
        settings, (stage, step) = self.settings, self._stage()
        if stage not in self.shadings:      # one size of pictures is kept, no more
            self.shadings = {stage: pixel_batches.Shading(self.views.resized(settings.sides[stage]), HALF, self.resolution,
                                                    settings)}
        surface = self.surface()
        if not len(surface.faces):
            raise RefineError(f"dmtet: the surface is gone at step {self.done}; use a smaller dmtet.lr")
        batch, *points = self.shadings[stage].batch(surface, self._chosen(stage, step), self.lengths,
                                                    np.random.RandomState([self.seed, 1 << 20, self.done]))
        self.buffers = [self.field.encode(places, buffer) for places, buffer in zip(points, self.buffers)]
        edges, faces = self.lengths.of("edges", len(surface.edges)), self.lengths.of("faces", len(surface.faces))
        values = pixel_batches.padded(surface.values, edges, 1)
        places = pixel_batches.padded(np.ascontiguousarray(surface.places.transpose(0, 2, 1)), edges).reshape(6, -1)
        corners = pixel_batches.padded(np.ascontiguousarray(surface.faces.T), faces)
        inputs = [*values, *places, *self.buffers[0], *self.buffers[1], *corners, *batch.values()]
        rates = adam.rates(self.done, settings.field_lr)
        loss, error, weight, gradients = self.graph(rates, *[Tensor.from_numpy(np.ascontiguousarray(x)) for x in inputs])
        loss = float(ops.fetch(loss))
        if not np.isfinite(loss):
            raise RefineError(f"dmtet: the loss is not finite at step {self.done}; use a smaller dmtet.lr or dmtet.field_lr")
        self._follow(surface, [g.asnumpy()[:len(surface.edges)] for g in gradients], settings.lr[stage])
        self.done += 1
        return loss, -10 * np.log10(max(float(error.asnumpy()) / max(float(weight.asnumpy()), 1e-12), 1e-10))

    def _follow(self, surface, gradients, lr):
        """Move the grid's values, and its vertices, by the gradients at the edges' ends."""
        ends, size = surface.edges, self.sdf.size
        summed = [np.bincount(ends[:, i], gradients[i], size) for i in (0, 1)]
        crossed = np.zeros(size, bool)
        crossed[ends] = True
        self.sdf = tet_grid.sealed(self.descent.step(self.sdf, (summed[0] + summed[1]).astype(np.float32)
                                                    .reshape(self.sdf.shape), crossed.reshape(self.sdf.shape), lr), HALF)
        if self.deformation is not None:
            a, b = ([np.bincount(ends[:, i], g, size) for g in gradients[2 + 3 * i:5 + 3 * i]] for i in (0, 1))
            moved = np.stack(a, axis=-1) + np.stack(b, axis=-1)
            cell = self.settings.deformation * 2 * HALF / self.resolution
            gradient = (moved * cell * (1 - np.tanh(self.deformation) ** 2)).astype(np.float32)
            usual = np.sqrt(np.square(gradient[crossed]).mean())
            self.deformation -= self.deforming.update(gradient, self.settings.deformation_lr * lr / self.settings.lr[0],
                                                      self.settings.damping * usual + 1e-30)

    def state(self):
        """{name: array} of everything that the rest of the run depends on."""
        arrays = self.adam.state()
        arrays.update({f"sdf.{name}": array for name, array in self.descent.state().items()})
        if self.deformation is not None:
            arrays.update({f"deformation.{name}": array for name, array in self.deforming.state().items()},
                          deformation=self.deformation)
        return {**arrays, "sdf": self.sdf, "done": np.array(self.done), "history": np.array(self.history),
                "seed": np.array(self.seed)}

    def restore(self, arrays):
        """Take over what `state` gave. Raises RefineError if it is of other settings."""
        try:
            if arrays["sdf"].shape != self.sdf.shape or ("deformation" in arrays) != (self.deformation is not None):
                raise KeyError("sdf")
            self.adam.restore(arrays)
            self.descent.restore({name[4:]: array for name, array in arrays.items() if name.startswith("sdf.")})
            if self.deformation is not None:
                self.deforming.restore({name[12:]: a for name, a in arrays.items() if name.startswith("deformation.")})
                self.deformation = arrays["deformation"].copy()
            self.sdf, self.done, self.seed = arrays["sdf"].copy(), int(arrays["done"]), int(arrays["seed"])
            self.history = [tuple(row) for row in arrays["history"]]
        except KeyError as error:
            raise RefineError(f"dmtet: the checkpoint does not fit the settings ({error}); run without --resume, or with the"
                              " settings of the first run") from None
