#!/usr/bin/env python3
"""Measure trained objects of an autodecoder from cameras that were held out.

  python benchmarks/autodecoder/reconstruction.py --ckpt FILE --data data/rings64 --objects 16 \\
      --out runs/reconstruction

The views that were held out, as the weights note, were not trained on. Beside the autodecoder stand
a grid of the same size for each object alone, optimized on the same views by multi-scale gradients
and opacity x 10, and the mean of all objects' volumes. A grid sees 8 squares a step, by default
1000 in all: as many as the recipe autodecoder_small makes an autodecoder see of each object (steps
x batch x views / objects). Printed are foreground PSNR (dB) and silhouette IoU, means over views,
then over objects. --out keeps each object as it is measured: the same command continues.
Exit code: 0 done, 2 wrong input, 130 interrupted (finished objects are kept).
"""
import argparse
import sys
from pathlib import Path

import _objects  # first: finds this checkout's sgm

# isort: split
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore import ops as P

from sgm import ops
from sgm.autodecoder import fitting
from sgm.autodecoder.noted import HOLD_OUT
from sgm.autodecoder.object_folder import as_levels
from sgm.autodecoder.perceptual import MultiScaleGradients
from sgm.autodecoder.pipeline import load_autodecoder
from sgm.autodecoder.ray_marching import RayMarcher
from sgm.common.cli import Arguments, check_folder, exit_code, int_range
from sgm.common.errors import InputError
from sgm.common.progress import each
from sgm.ops.adam import AdamStep, rates

RATE = 0.1              # of the grid's numbers, which are raw density and color


class GridLoss(nn.Cell):
    """The loss of `fitting.FitLoss`, of squares of the views of a grid."""

    def __init__(self, spec, side):
        super().__init__(auto_prefix=False)
        self.side, self.squares = side, fitting.SQUARES
        self.grid = Parameter(Tensor(np.zeros((spec.volume.side ** 3, 4), np.float32)),
                              name="grid")
        self.perceptual = MultiScaleGradients(side)
        self.march = RayMarcher(spec.volume.side, spec.samples, 1, 1)

    def construct(self, origins, directions, jitter, target, known):
        """Return the loss, twice, as `AdamStep` wants it."""
        made = self.march(self.grid, origins, directions, jitter)
        made = made.reshape(4, self.squares, self.side, self.side).transpose(1, 0, 2, 3) * known
        loss = self.perceptual(made[:, :3], target[:, :3])
        loss = loss + fitting.MASK_WEIGHT * P.abs(made[:, 3] - target[:, 3]).mean()
        return loss, P.stop_gradient(loss)


class Grids:
    """Grids of single objects, one after the other in one compiled step."""

    def __init__(self, spec, steps):
        self.spec, self.steps = spec, steps
        self.loss = GridLoss(spec, fitting.SIDE)
        cell = AdamStep(self.loss, [self.loss.grid], "grid")
        self.begin, self.step = ops.compiled(cell.begin), ops.compiled(cell.construct)

    def of(self, views):
        """Return the grid (side^3, 4) of PosedViews."""
        pixels, rng = fitting.ViewPixels(views), np.random.default_rng(0)
        self.begin(Tensor(np.zeros(self.loss.grid.shape, np.float32)))
        for number in range(self.steps):
            rate = RATE * 0.5 * (1 + np.cos(np.pi * number / self.steps))
            value = self.step(rates(number, rate),
                              *map(Tensor, pixels.batch(rng, self.spec.samples)))[1]
        ops.fetch(value)
        return ops.fetch(self.loss.grid).copy()


def seen_volume(model, volume, views):
    """Return `figures` of a volume (side^3, 4)."""
    places = (part.reshape(-1) for part in np.indices(views.mask.shape))
    made = model.render_rays(volume[None], *views.rays(*places))[0]
    made = made.reshape(*views.mask.shape, 4)
    return _objects.figures(as_levels(made[..., :3], made[..., 3]), views)


def main(argv=None):
    parser = Arguments(prog="reconstruction.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    _objects.add_model(parser)
    parser.add_argument("--objects", type=int_range(1, 100_000), default=16,
                        help="how many, evenly spread (default 16)")
    parser.add_argument("--grid-steps", type=int_range(1, 100_000), default=125,
                        help="steps of a grid, of 8 squares each (default 125)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder of the objects' figures")
    args = parser.parse_args(argv)
    check_folder(args.out, "--out")
    model = load_autodecoder(args.model, args.ckpt).model
    views = _objects.trained_views(args, model)
    trained, held = views.split(int(model.notes.get(HOLD_OUT, 0)))
    if not len(held):
        raise InputError(f"{args.ckpt}: found weights of a training on all views, expected held-out"
                         " ones (hold_out) to measure")
    kept = _objects.Kept(args.out, {"decoder": _objects.weights_hash(model),
                                    "data": views.names_hash(), "steps": args.grid_steps})
    chosen = _objects.spread(min(args.objects, len(views)), len(views))

    def volume_of(index):
        return model.volumes_of(model.latents_of([index], batch=1))[0]

    def mean_volume():
        total = 0
        for index in each(range(len(views)), "mean object", "object", quiet=args.quiet):
            total = total + volume_of(index)
        return {"volume": total / len(views)}
    mean, grids = kept("mean", mean_volume)["volume"], Grids(model.spec, args.grid_steps)

    def measured(index):
        true = _objects.posed(views, index, held)
        grid = grids.of(_objects.posed(views, index, trained))
        return {"row": [seen_volume(model, volume, true) for volume in
                        (volume_of(index), grid, mean)]}
    rows = np.array([kept(f"{index:05d}", lambda i=index: measured(i))["row"] for index in
                     each(chosen, "objects", "object", quiet=args.quiet)])
    print(f"{len(rows)} objects, {len(held)} held-out views of each")
    for name, (psnr, iou) in zip(("autodecoder", "grid of each object", "mean object"),
                                 rows.mean(0)):
        print(f"{name:20s} {psnr:6.2f} dB  IoU {iou:.3f}")
    behind = rows[:, 1, 0] - rows[:, 0, 0]
    print(f"behind the grid by {behind.mean():.2f} dB, at most {behind.max():.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("reconstruction.py", main))
