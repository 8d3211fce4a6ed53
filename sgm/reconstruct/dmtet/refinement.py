"""Deep marching tetrahedra: a surface is moved until it renders as the views.

Shen et al., "Deep Marching Tetrahedra", NeurIPS 2021, and nvdiffrec (Munkberg et al., CVPR 2022),
with the topology and visibility of every step found on the host and the rest in one compiled graph
of static shape: vertices from the values at grid edges, colors of a field at surface points,
outlines antialiased, losses, the field's update.

The field is evaluated at the host's points, so its colors carry no gradient to the surface by
themselves. The gradient along the ray, which is all that a pixel's color depends on, is the
difference to the color a little further along.
"""
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.common.errors import InputError, argument
from sgm.ops import adam
from sgm.reconstruct.dmtet import marching_tets, pixel_batches, tet_grid
from sgm.reconstruct.dmtet.pixel_batches import Edges
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
from sgm.reconstruct.dmtet.sdf_optimizer import Adam, SdfOptimizer
from sgm.reconstruct.posed_views import HALF, PosedViews


class RefineError(InputError):
    """Views or distances from which no surface can be refined; one line says what to do."""


class Goal(NamedTuple):
    """Pictures that the surface is to render as besides the views, as far as they are trusted.

    views: PosedViews, compared on white; their mask only says where the object is. importance
    (V, H, W): factors on the pixels' squared errors. weight: of the sum of these per pixel of the
    object, that of the views being 1. count: how many of its pictures a step takes, drawn anew.
    """
    views: PosedViews
    importance: np.ndarray
    weight: float
    count: int


def grouped(arrays):
    """Return the groups of a `Batch` from its arrays in a row, as `Batch.arrays` returns them.

    They are plain tuples in the order of the groups' fields: a NamedTuple made inside a compiled
    graph is not part of the graph, MindSpore 2.8 would call Python for it.
    """
    edges, points, faces, outlines = arrays[0:8], arrays[8:12], arrays[12:15], arrays[15:23]
    return edges, points, faces, outlines, arrays[23:27], arrays[27:33], arrays[33:36]


class Loss(nn.Cell):
    """The loss of a `pixel_batches.Batch`."""

    def __init__(self, field, settings):
        super().__init__(auto_prefix=False)
        self.field, self.pixels = field, settings.pixels
        self.geometry = pixel_batches.geometry_rows(settings)
        self.mask, self.smooth = settings.mask, settings.smooth

    def construct(self, *arrays):
        """Return the loss, and the squared error of the colors and its weight, for the PSNR.

        The error is over wanted pixels. arrays: `Batch.arrays`.
        """
        edges, points, faces, outlines, pixels, rays, pairs = grouped(arrays)
        indices, weights, further_indices, further_weights = points
        near, far, receiver, p, q, across, functionals, eyes = outlines
        target, wanted, shares, backdrop = pixels

        # Colors of the pixels, which depend on how far the surface moves along their rays.
        vertices = marching_tets.device_crossings(edges)
        _, colors = self.field(indices, weights)
        loss = 0.0
        if self.geometry:
            _, ahead = self.field(further_indices, further_weights)
            shown = colors[:self.geometry]
            moved, loss = self.by_surface(vertices, faces, rays, pairs)
            slope = P.stop_gradient(ahead - shown) * moved.reshape(-1, 1)
            colors = P.concat((shown + slope, colors[self.geometry:]), 0)
        colors = P.concat((colors, backdrop), 0)
        opacity = P.concat((P.ones((self.pixels, 1), ms.float32), P.zeros_like(backdrop[:, :1])), 0)

        # Outlines blend them.
        eye, functional = P.unstack(eyes, 0), P.unstack(functionals, 0)
        where = place(take(vertices, p), take(vertices, q), eye,
                      (functional[0:3], functional[3:6], functional[6:9]))
        colors = antialias(colors, near, far, receiver, across, where)
        opacity = antialias(opacity, near, far, receiver, across, where).reshape(-1)

        # Losses.
        error = P.square(colors - target).sum(-1)
        loss = loss + (shares * (error + self.mask * P.square(opacity - wanted))).sum()
        solid = shares * P.cast(wanted > 0.5, ms.float32)
        return loss, P.stop_gradient((solid * error).sum() / 3), solid.sum()

    def by_surface(self, vertices, faces, rays, pairs):
        """Return how far points have moved along their rays, and the loss of bent surfaces.

        The first, of the first G pixels, is 0 in value, not in gradient, and times `Rays.moves`.
        The second is the bilateral smoothness of normals: exp(-3 |dI|) (sqrt(1 + |dn|^2) - 1) of
        neighboring pixels (SV3D, section 4).
        """
        i, j, k, directions, eyes, moves = rays
        eye, direction = P.unstack(eyes, 0), P.unstack(directions, 0)
        a, b, c = take(vertices, i), take(vertices, j), take(vertices, k)
        depth, of_b, of_c = intersect(a, b, c, eye, direction)
        smooth = 0.0
        if self.smooth > 0:
            first, second, even = pairs
            normals = vertex_normals(vertices, faces, vertices[0].shape[0])
            normal = interpolate(take(normals, i), take(normals, j), take(normals, k), of_b, of_c)
            normal = unit(normal, 1e-12)
            bend = minus(take(normal, first), take(normal, second))
            smooth = self.smooth * (even * (P.sqrt(1 + dot(bend, bend)) - 1)).sum()
        return (depth - P.stop_gradient(depth)) * moves, smooth


class GuidedLoss(nn.Cell):
    """The loss of two batches of one surface: that of the views, and that of a `Goal`."""

    def __init__(self, field, settings):
        super().__init__(auto_prefix=False)
        self.views, self.goal = Loss(field, settings), Loss(field, of_goal(settings))

    def construct(self, *arrays):
        """Return what `Loss` does for the views, the goal's loss added to the first.

        arrays: `Batch.arrays` of the views, then of the goal without the edges.
        """
        loss, error, weight = self.views(*arrays[0:36])
        more, _, _ = self.goal(*(arrays[0:8] + arrays[36:64]))
        return loss + more, error, weight


def of_goal(settings):
    """Return the settings for a Goal, of which colors alone are compared."""
    return replace(settings, mask=0.0, smooth=0.0)


def adam_step(field, settings, moments=None):
    """Return an AdamStep of the field that also gives gradients by the edges' values.

    If the grid deforms, it gives those by their places too. moments: an AdamStep to continue, with
    a goal besides the views.
    """
    inputs = tuple(range(len(Edges._fields) if settings.deformation > 0 else 2))
    loss = Loss(field, settings) if moments is None else GuidedLoss(field, settings)
    return adam.AdamStep(loss, field.trainable_params(), "dmtet", inputs, moments)


class Refiner:
    """A surface, its colors and the state of their optimization.

    `sgm.reconstruct.optimization.optimize` moves the surface, and trains the field along, until it
    renders as the views. `state` and `restore` make a run resume bit for bit.
    views: `PosedViews`, normalized. sdf (R + 1,) * 3: negative inside. field: a `Field`. settings:
    a `DMTetSpec`. goals: None, or a function (surface, field, done, forget) that returns the
    `Goal` of the step after `done` ones, or None; it calls forget() before it frees what was
    compiled. Raises RefineError if the grid has no inside.
    """
    name = "dmtet"

    def __init__(self, views, sdf, field, settings, seed=0, goals=None):
        if not np.isfinite(sdf).all() or not (sdf < 0).any():
            raise RefineError(
                "dmtet: the distances it starts from have no inside, or are not finite; look at the"
                " masks and poses of the views, and at the stages before"
            )
        self.views, self.field, self.settings, self.seed = views, field, settings, seed
        self.goals = goals
        self.resolution = sdf.shape[0] - 1
        self.sdf = tet_grid.sealed(sdf, HALF)
        self.optimizer = SdfOptimizer(self.sdf, HALF, settings)
        self.deformation = (
            np.zeros((self.sdf.size, 3), np.float32) if settings.deformation > 0 else None
        )
        self.deformation_adam = Adam((self.sdf.size, 3))
        self.adam = adam_step(field, settings)
        self.graph, self.is_guided = None, False
        self.lengths, self.batchers = pixel_batches.Lengths(), {}
        self.goal_lengths, self.goal_batcher = pixel_batches.Lengths(), None
        self.buffers = {"views": [None, None], "goal": [None, None]}
        self.done, self.history = 0, []

    @property
    def total(self):
        """Return the number of steps of all stages, done or not."""
        return sum(self.settings.steps)

    def surface(self):
        """Return the present `pixel_batches.Surface`."""
        return pixel_batches.surface_of(self.sdf, HALF, self.deformation, self.settings.deformation)

    def _stage(self):
        """Return the stage of the next step, and how many steps it has had."""
        before = self.done
        for stage, steps in enumerate(self.settings.steps):
            if before < steps:
                return stage, before
            before -= steps
        return stage, before

    def _chosen(self, stage, step):
        """Return the views of a step: each once, in random order, before one comes again."""
        count, total = min(self.settings.views[stage], len(self.views)), len(self.views)
        turns = range(step * count // total, ((step + 1) * count - 1) // total + 1)
        order = np.concatenate(
            [np.random.RandomState([self.seed, stage, turn]).permutation(total) for turn in turns]
        )
        start = step * count - turns[0] * total
        return np.unique(order[start:start + count])

    def step(self):
        """Make one step. Return its loss and the PSNR of the object's pixels in dB.

        Raises RefineError when the loss is not finite.
        """
        settings, (stage, step) = self.settings, self._stage()
        if stage not in self.batchers:  # one size of pictures is kept, no more
            self.batchers = {
                stage: pixel_batches.PixelBatcher(
                    self.views.resized(settings.sides[stage]),
                    HALF,
                    self.resolution,
                    settings,
                    self.lengths,
                )
            }
        surface = self.surface()
        if not len(surface.faces):
            raise RefineError(
                f"dmtet: the surface is gone at step {self.done}; use a smaller dmtet.lr"
            )
        batch = self.batchers[stage].batch(surface, self._chosen(stage, step),
                                           partial(self._encoded, "views"),
                                           np.random.RandomState([self.seed, 1 << 20, self.done]))
        arrays = batch.arrays()
        goal = self.goals and self.goals(surface, self.field, self.done, self._forget)
        if goal:
            arrays += self._goal_batch(goal, surface).arrays()[len(Edges._fields):]
        rates = adam.rates(self.done, settings.field_lr)
        loss, error, weight, gradients = self._compiled(bool(goal))(
            rates, *[Tensor.from_numpy(np.ascontiguousarray(x)) for x in arrays]
        )
        loss = float(ops.fetch(loss))
        if not np.isfinite(loss):
            raise RefineError(
                f"dmtet: the loss is not finite at step {self.done}; use a smaller dmtet.lr or"
                " dmtet.field_lr"
            )
        self._follow(
            surface, [g.asnumpy()[: len(surface.edges)] for g in gradients], settings.lr[stage]
        )
        self.done += 1
        return loss, -10 * np.log10(
            max(float(error.asnumpy()) / max(float(weight.asnumpy()), 1e-12), 1e-10)
        )

    def _compiled(self, is_guided):
        """Return the graph of a step, with a goal or without."""
        if self.graph is None or self.is_guided != is_guided:
            step = self.adam
            if is_guided:
                step = adam_step(self.field, self.settings, self.adam)
            self.graph, self.is_guided = ops.compiled(step.construct), is_guided
        return self.graph

    def _forget(self):
        """Forget what was compiled; it is compiled again when next used."""
        self.graph = None
        self.field.forget_graphs()

    def _goal_batch(self, goal, surface):
        """Return the Batch of some pictures of a Goal."""
        if self.goal_batcher is None or self.goal_batcher.views is not goal.views:
            self.goal_batcher = pixel_batches.PixelBatcher(
                goal.views, HALF, self.resolution, of_goal(self.settings), self.goal_lengths,
                goal.importance)
        rng = np.random.RandomState([self.seed, 1 << 21, self.done])
        chosen = np.sort(rng.permutation(len(goal.views))[:goal.count])
        batch = self.goal_batcher.batch(surface, chosen, partial(self._encoded, "goal"), rng)
        shares = batch.pixels.shares * np.float32(goal.weight)
        return batch._replace(pixels=batch.pixels._replace(shares=shares))

    def _encoded(self, kind, *points):
        """Return the field's indices and weights at points, in the memory of the last step's.

        kind: "views" or "goal", which have memory of their own.
        """
        self.buffers[kind] = [
            self.field.encode(places, buffer) for places, buffer in zip(points, self.buffers[kind])
        ]
        return [array for buffer in self.buffers[kind] for array in buffer]

    def _follow(self, surface, gradients, lr):
        """Move the grid's values, and its vertices, by the gradients at the edges' ends."""
        ends, size = surface.edges, self.sdf.size
        summed = [np.bincount(ends[:, i], gradients[i], size) for i in (0, 1)]
        crossed = np.zeros(size, bool)
        crossed[ends] = True
        self.sdf = tet_grid.sealed(
            self.optimizer.step(
                self.sdf,
                (summed[0] + summed[1]).astype(np.float32).reshape(self.sdf.shape),
                crossed.reshape(self.sdf.shape),
                lr,
            ),
            HALF,
        )
        if self.deformation is not None:
            a, b = (
                [np.bincount(ends[:, i], g, size) for g in gradients[2 + 3 * i : 5 + 3 * i]]
                for i in (0, 1)
            )
            moved = np.stack(a, axis=-1) + np.stack(b, axis=-1)
            cell = self.settings.deformation * 2 * HALF / self.resolution
            gradient = (moved * cell * (1 - np.tanh(self.deformation) ** 2)).astype(np.float32)
            rms = np.sqrt(np.square(gradient[crossed]).mean())
            self.deformation -= self.deformation_adam.update(
                gradient,
                self.settings.deformation_lr * lr / self.settings.lr[0],
                self.settings.damping * rms + 1e-30,
            )

    def state(self):
        """Return {name: array} of everything that the rest of the run depends on."""
        arrays = self.adam.state()
        arrays.update({f"sdf.{name}": array for name, array in self.optimizer.state().items()})
        if self.deformation is not None:
            arrays.update(
                {
                    f"deformation.{name}": array
                    for name, array in self.deformation_adam.state().items()
                },
                deformation=self.deformation,
            )
        return {
            **arrays,
            "sdf": self.sdf,
            "done": np.array(self.done),
            "history": np.array(self.history),
            "seed": np.array(self.seed),
        }

    def restore(self, arrays):
        """Take over what `state` returned. Raises RefineError if it is of other settings."""
        try:
            if arrays["sdf"].shape != self.sdf.shape or ("deformation" in arrays) != (
                self.deformation is not None
            ):
                raise KeyError("sdf")
            self.adam.restore(arrays)
            self.optimizer.restore(
                {name[4:]: array for name, array in arrays.items() if name.startswith("sdf.")}
            )
            if self.deformation is not None:
                self.deformation_adam.restore(
                    {name[12:]: a for name, a in arrays.items() if name.startswith("deformation.")}
                )
                self.deformation = arrays["deformation"].copy()
            self.sdf, self.done, self.seed = (
                arrays["sdf"].copy(),
                int(arrays["done"]),
                int(arrays["seed"]),
            )
            self.history = [tuple(row) for row in arrays["history"]]
        except KeyError as error:
            raise RefineError(
                f"dmtet: the checkpoint does not fit the settings ({error}); run without"
                f" {argument('resume')}, or with the settings of the first run"
            ) from None
