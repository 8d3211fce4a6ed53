"""Deep marching tetrahedra: a surface moved by the pictures it should give.

Shen et al., "Deep Marching Tetrahedra", NeurIPS 2021, and nvdiffrec (Munkberg et al., CVPR 2022), with the topology and
visibility of every step found on the host and the rest in one compiled graph of static shape: vertices from the values at
grid edges, colours of a field at surface points, outlines antialiased, losses, the field's update.

The field is asked on the host's points, so its colours carry no gradient to the surface by themselves. That along the ray,
which is all a pixel's colour depends on, is the difference to its colour a little further along.
"""
import logging

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.common.cli import signals_handled
from sgm.common.errors import InputError
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

FIELD_BETAS, FIELD_EPS = (0.9, 0.99), 1e-15     # as the field was trained before
ENDS = ("s_a", "s_b", "ax", "ay", "az", "bx", "by", "bz")
log = logging.getLogger("sgm")


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


class Step(nn.Cell):
    """Loss, its gradient by the edges' values (and places, if the grid deforms), and Adam of the field, in one graph."""

    def __init__(self, loss, parameters, deforms):
        super().__init__(auto_prefix=False)
        self.parameters_ = ParameterTuple(parameters)
        self.m = self.parameters_.clone("dmtet_m", "zeros")
        self.v = self.parameters_.clone("dmtet_v", "zeros")
        inputs = tuple(range(len(ENDS) if deforms else 2))
        self.gradients = ms.value_and_grad(loss, inputs, self.parameters_, has_aux=True)
        self.adam = P.Adam()
        self.count = len(parameters)

    def construct(self, rates, *batch):
        """rates (3,): learning rate, powers of the betas. -> loss, error, its weight, gradients of the inputs."""
        (loss, error, weight), (of_inputs, of_field) = self.gradients(*batch)
        lr, beta1_power, beta2_power = rates
        done = ()
        for k in range(self.count):
            parameter, m, v = self.parameters_[k], self.m[k], self.v[k]
            done = done + (self.adam(parameter, m, v, beta1_power, beta2_power, lr, *FIELD_BETAS, FIELD_EPS, of_field[k]),)
        return P.depend(loss, done), error, weight, of_inputs


class Refiner:
    """A surface, its colours and the state of their optimisation; `state` and `restore` make a run resume bit for bit.

    views: `views.Views`, normalised. sdf (R + 1,) * 3: negative inside. field: a `field.Field`. settings: a `DMTetSpec`.
    Raises RefineError if the grid has no inside.
    """

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
        self.trainer = Step(Loss(field, settings), field.trainable_params(),
                            settings.deformation > 0)
        self.graph = ops.compiled(self.trainer.construct)
        self.lengths, self.shadings, self.buffers = pixel_batches.Lengths(), {}, [None, None]
        self.done, self.history = 0, []

    @property
    def total(self):
        """Steps of all stages."""
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
        powers = [FIELD_BETAS[0] ** (self.done + 1), FIELD_BETAS[1] ** (self.done + 1)]
        rates = Tensor(np.array([settings.field_lr, *powers], np.float32))
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
        groups = {"parameter": self.trainer.parameters_, "m": self.trainer.m, "v": self.trainer.v}
        arrays = {f"{kind}.{p.name}": p.asnumpy() for kind, group in groups.items() for p in group}
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
            for kind, group in (("parameter", self.trainer.parameters_), ("m", self.trainer.m), ("v", self.trainer.v)):
                for p in group:
                    if arrays[f"{kind}.{p.name}"].shape != p.shape:
                        raise KeyError(p.name)
                    p.set_data(Tensor(arrays[f"{kind}.{p.name}"]))
            self.descent.restore({name[4:]: array for name, array in arrays.items() if name.startswith("sdf.")})
            if self.deformation is not None:
                self.deforming.restore({name[12:]: a for name, a in arrays.items() if name.startswith("deformation.")})
                self.deformation = arrays["deformation"].copy()
            self.sdf, self.done, self.seed = arrays["sdf"].copy(), int(arrays["done"]), int(arrays["seed"])
            self.history = [tuple(row) for row in arrays["history"]]
        except KeyError as error:
            raise RefineError(f"dmtet: the checkpoint does not fit the settings ({error}); run without --resume, or with the"
                              " settings of the first run") from None


def refine(views, sdf, field, settings, progress=None, *, state=None, save=None, preview=None, seed=0):
    """Refine a surface until it renders as the views -> vertices (N, 3) float32, faces (M, 3) int32, sdf, field.

    sdf (R + 1,) * 3 float32, negative inside, over the box |x| <= HALF; field: is trained along. settings: a DMTetSpec.
    progress(done, total, psnr) is called after every step, psnr in dB, a mean over the last ten or so. state: what `save`
    was given, to go on from; save(arrays) is called every settings.save_every steps and at the end; preview(done, surface),
    a shading.Surface, every settings.preview_every steps and at the end. Ctrl-C and SIGTERM end it after the step under
    way, with what there is then. Raises RefineError.
    """
    refiner = Refiner(views, sdf, field, settings, seed)
    if state is not None:
        refiner.restore(state)
    stopped, psnr = [], None
    with signals_handled(lambda number, frame: stopped.append(number)):    # an exception inside MindSpore would break it
        while refiner.done < refiner.total and not stopped:
            loss, found = refiner.step()
            psnr = found if psnr is None else 0.9 * psnr + 0.1 * found
            if refiner.done % 10 == 0 or refiner.done == refiner.total:
                refiner.history.append((refiner.done, loss, psnr))
            if progress is not None:
                progress(refiner.done, refiner.total, psnr)
            last = refiner.done == refiner.total or bool(stopped)
            if save is not None and (last or settings.save_every and refiner.done % settings.save_every == 0):
                save(refiner.state())
            if preview is not None and settings.preview_every and (last or refiner.done % settings.preview_every == 0):
                preview(refiner.done, refiner.surface())
    if stopped:
        log.warning("dmtet: stopped after %d of %d steps; the surface is as it was then", refiner.done, refiner.total)
    surface = refiner.surface()
    return surface.vertices, surface.faces, refiner.sdf, field
