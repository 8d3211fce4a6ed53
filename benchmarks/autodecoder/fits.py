#!/usr/bin/env python3
"""Fit unseen objects with an autodecoder, by the number of views that are given.

  python benchmarks/autodecoder/fits.py --ckpt FILE --data data/rings64 --unseen data/fresh64 \\
      --out runs/fits

Of each unseen object 1, 2, 4, 8 and 24 of the views of Orbit.rings are fitted, evenly spread over
those that are not held out; measured are the held-out ones (every third). Beside the fit stands the
trained object that looks most like the given views. Printed are foreground PSNR (dB) and silhouette
IoU, means over views, then over objects. --out keeps each fit as it is made: the same command
continues. generation.py compares with the fits of most views.
Exit code: 0 done, 2 wrong input, 130 interrupted (finished fits are kept).
"""
import argparse
import sys
from pathlib import Path

import _objects  # first: finds this checkout's sgm

# isort: split
import numpy as np

from sgm.autodecoder import fitting
from sgm.autodecoder.pipeline import load_autodecoder
from sgm.common.cli import Arguments, check_folder, exit_code, int_range
from sgm.common.progress import each
from sgm.train.objects.masked_views import MaskedViews

COUNTS, HOLD_OUT = (1, 2, 4, 8, 24), 3


def main(argv=None):
    parser = Arguments(prog="fits.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    _objects.add_model(parser)
    add = parser.add_argument
    add("--unseen", nargs="+", required=True, help="packed sets of other objects, on rings")
    add("--objects", type=int_range(1, 100_000), default=16,
        help="how many, evenly spread (default 16)")
    add("--steps", type=int_range(1, 100_000), default=fitting.STEPS,
        help=f"of a fit (default {fitting.STEPS})")
    add("--counts", type=lambda text: [int(part) for part in text.split(",")], default=COUNTS,
        help="numbers of views (default 1,2,4,8,24)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the fits")
    args = parser.parse_args(argv)
    check_folder(args.out, "--out")
    objects = load_autodecoder(args.model, args.ckpt)
    model = objects.model
    _objects.trained_views(args, model)
    unseen = MaskedViews(args.unseen, model.spec.size)
    trained, held = unseen.split(HOLD_OUT)
    chosen = _objects.spread(min(args.objects, len(unseen)), len(unseen))
    kept = _objects.Kept(args.out, {
        "decoder": _objects.weights_hash(model), "unseen": [unseen.names_hash(), len(unseen)],
        "steps": args.steps, "most": max(args.counts)})

    def fitted(index, count):
        true = _objects.posed(unseen, index, held)
        given = trained[np.linspace(0, len(trained), count, endpoint=False).astype(int)]
        found, latent = objects.fitter.fit(_objects.posed(unseen, index, given), args.steps)
        nearest = model.latents_of([found.nearest], batch=1)[0]
        return {"latent": latent[0], "row": [*_objects.seen(model, latent[0], true),
                                             *_objects.seen(model, nearest, true)]}
    rows = {count: [] for count in args.counts}
    jobs = [(index, count) for index in chosen for count in args.counts]
    for index, count in each(jobs, "fits", "fit", quiet=args.quiet):
        name = f"{index:05d}_of_{count}_views"
        rows[count].append(kept(name, lambda i=index, n=count: fitted(i, n))["row"])
    print(f"{len(chosen)} unseen objects, {len(held)} held-out views of each")
    print("views      fit            nearest object    gain")
    for count, found in rows.items():
        psnr, iou, psnr_nearest, iou_nearest = np.mean(found, 0)
        print(f"{count:5d} {psnr:6.2f} dB {iou:.3f}  {psnr_nearest:6.2f} dB {iou_nearest:.3f}"
              f"  {psnr - psnr_nearest:+6.2f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("fits.py", main))
