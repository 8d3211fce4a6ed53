#!/usr/bin/env python3
"""Grow an object from nothing but one picture, by distillation.

  python benchmarks/from_nothing.py 1000003 --out runs/from_nothing

DreamFusion's experiment (Poole et al. 2022, arXiv 2209.14988) with the embedded model, which is
given the picture of a procedural object. A radiance field begins empty; clip by clip, 21 views of
it on a random orbit are rendered, noised, and denoised in one evaluation, and the field is trained
on what comes of it, for some steps. The noise falls from clip to clip. No other view is ever given.

Printed is the foreground PSNR of views 0-19 of the static orbit against the true object, by clip,
and at the end that of the mean of the true orbit (an oracle) and of the picture repeated. Written
is views.png, true views above the field's. Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402

from sgm.common.cli import Arguments, exit_code, int_range  # noqa: E402
from sgm.common.progress import each  # noqa: E402
from sgm.config.reconstruction import NerfSpec  # noqa: E402
from sgm.reconstruct.posed_views import HALF, PosedViews  # noqa: E402
from sgm.render.procedural import make_object, on_white  # noqa: E402
from sgm.render.zbuffer import SOFT, render_views  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import FOV_DEG, Orbit, focal_length  # noqa: E402
from sgm.views.images import save_png  # noqa: E402
from sgm.views.matting import alpha_from_white  # noqa: E402
from sgm.views.media import contact_sheet  # noqa: E402

SIDE, ELEVATION = 64, 10.0
SIGMAS = (400.0, 2.0)               # of the first and of the last clip
SAMPLES = 48                        # per ray, where the field is rendered


def posed(frames, orbit):
    """Return frames (T, S, S, 3) uint8 on white as PosedViews from the cameras of an orbit."""
    rgba = np.stack([alpha_from_white(frame) for frame in frames]).astype(np.float32) / 255
    focal = focal_length(SIDE)
    return PosedViews(np.ascontiguousarray(rgba[..., :3] * rgba[..., 3:]),
                      np.ascontiguousarray(rgba[..., 3]), orbit.poses(), focal, focal, SIDE / 2,
                      SIDE / 2)


def ball(resolution=64):
    """Return the signed distance of the ball that fills the box, where the field may grow."""
    axis = np.linspace(-HALF, HALF, resolution + 1, dtype=np.float32)
    return np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) - HALF


def rendered(trainer, views):
    """Return the field as the cameras of `views` see it: (T, S, S, 3) uint8 on white."""
    trainer.views = views
    return np.stack([trainer.render(k, SIDE, SAMPLES) for k in range(len(views))])


def grow(args):
    """Grow the object and measure it; return the exit code."""
    from sgm.diffusion.pipeline import load_model
    from sgm.reconstruct.distill.orbit_model import ModelDenoiser
    from sgm.reconstruct.nerf.training import NerfTrainer, Rays
    from sgm.views.preprocessing import to_network
    args.out.mkdir(parents=True, exist_ok=True)
    static = Orbit.static(ELEVATION)
    truth = render_views(make_object(args.object), static.poses(), SIDE, FOV_DEG, lighting=SOFT,
                         supersample=4)
    model = ModelDenoiser(load_model(), to_network(on_white(truth[-1])), args.guidance)
    settings = NerfSpec(resolutions=[8, 16, 32], side=SIDE, steps=args.clips * args.steps,
                        rays=2048, lr=5e-3, tv=1e-3, preview_every=0, save_every=0)
    blank = np.full((len(static), SIDE, SIDE, 3), 255, np.uint8)
    blank[-1] = on_white(truth[-1])
    judged = posed(on_white(truth), static)
    trainer = NerfTrainer(posed(blank, static), ball(), settings, seed=args.seed)
    for clip, sigma in enumerate(each(np.geomspace(*SIGMAS, args.clips), "clips", "clip")):
        orbit = Orbit.dynamic(int(np.random.RandomState([args.seed, clip]).randint(1 << 31)),
                              ELEVATION)
        shown = rendered(trainer, posed(blank, orbit)).astype(np.float32) / 127.5 - 1
        if not clip:
            shown[:] = 1                        # a field that has learned nothing is no picture
        made = model(np.ascontiguousarray(shown.transpose(0, 3, 1, 2)), orbit, float(sigma),
                     np.random.RandomState([args.seed, 1, clip]))
        frames = np.clip((made.transpose(0, 2, 3, 1) + 1) * 127.5, 0, 255).round().astype(np.uint8)
        frames[-1] = on_white(truth[-1])
        trainer.views = posed(frames, orbit)
        trainer.rays = Rays(trainer.views, patches=False)
        for _ in range(args.steps):
            trainer.step()
        if clip % 5 == 4 or clip == args.clips - 1:
            seen = rendered(trainer, judged)
            found = metrics.mean_metrics(metrics.compare_orbit(seen, truth))
            print(f"clip {clip + 1:3d}, sigma {sigma:6.2f}: {found['psnr_fg']:5.2f} dB, IoU"
                  f" {found['iou']:.3f}", flush=True)
    for name, answer in (("mean of the true orbit (an oracle)", metrics.mean_of_orbit(truth)),
                         ("picture repeated", metrics.input_repeated(truth))):
        found = metrics.mean_metrics(metrics.compare_orbit(answer, truth))
        print(f"{name}: {found['psnr_fg']:.2f} dB, IoU {found['iou']:.3f}")
    rows = np.concatenate([on_white(truth)[1::4], seen[1::4]])
    save_png(args.out / "views.png", contact_sheet(rows, len(rows) // 2))
    return 0


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("object", type=int_range(0, 2 ** 31 - 1), help="seed of a procedural object")
    add("--out", type=Path, required=True, help="folder to fill")
    add("--clips", type=int_range(1, 10_000), default=60, help="denoised orbits (default 60)")
    add("--steps", type=int_range(1, 10_000), default=25, help="of the field by clip (default 25)")
    add("--guidance", type=float, default=1.0, help="scale of the guidance (default 1)")
    add("--seed", type=int_range(0, 2 ** 31 - 1), default=0, help="of orbits and noise (default 0)")
    return parser.parse_args(argv)


def main(argv=None):
    return grow(parse(argv))


if __name__ == "__main__":
    sys.exit(exit_code("from_nothing.py", main))
