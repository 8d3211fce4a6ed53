#!/usr/bin/env python3
"""Compare normalizations of latents that have outliers: robust, and mean with deviation.

  python benchmarks/autodecoder/normalization.py --ckpt FILE --data data/rings64 --steps 2000

The latents of all objects get outliers: --share of their numbers are moved by up to --far robust
standard deviations, as the paper's figure 9 shows tails of latents. A denoiser is trained on them
in each normalization, from the start whatever --ckpt has, with the same seeds, noise and steps;
what is sampled is measured as the model's own views of the trained objects are, by the tower of the
embedded sv3d_tiny. As the robust one clips, mean with deviation is there with the same clip and
without. Printed are,
without outliers and with them, KID x 1000 (of four views of --count samples) and how many samples
have no surface.
Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import sys

import _objects  # first: finds this checkout's sgm

# isort: split
import numpy as np
from generation import described, tokens

from sgm.autodecoder.latents.conditions import Tower
from sgm.autodecoder.latents.latent_normalization import Normalization, robust_normalization
from sgm.autodecoder.latents.sampling import sample
from sgm.autodecoder.object_model import load_objects
from sgm.autodecoder.pipeline import load_autodecoder
from sgm.common.cli import Arguments, exit_code, float_range, int_range
from sgm.common.progress import Bar
from sgm.config.recipe import Recipe
from sgm.config.yaml_reader import find_config, load_yaml
from sgm.models.initialization import initialize
from sgm.train.objects.object_batches import LatentBatches
from sgm.train.trainer import Trainer
from sgm.views.cameras import Orbit
from sgm.views.metrics import kid

NO_LIMIT = 1e30


def with_outliers(latents, share, far):
    """Return a copy in which a share of the numbers is moved, log-uniformly up to `far`."""
    rng = np.random.default_rng(0)
    moved, scale = latents.copy(), robust_normalization(latents, 1.0, NO_LIMIT).deviation
    places = rng.random(latents.shape) < share
    count = int(places.sum())
    moved[places] += scale * rng.choice((-1, 1), count) * np.exp(rng.uniform(0, np.log(far), count))
    return moved


def normalizations(latents, settings):
    """Return {name: Normalization} of the three ways."""
    plain = Normalization(float(latents.mean()), float(latents.std()), settings.latent_std,
                          NO_LIMIT)
    return {"median, quartiles": robust_normalization(latents, settings.latent_std, settings.clip),
            "mean, dev., clipped": plain._replace(limit=settings.clip), "mean, deviation": plain}


def trained_and_sampled(spec, args, latents, normalization, text):
    """Return the model and the latents that a denoiser of its own samples."""
    model, _ = load_objects(spec, args.ckpt, True)
    initialize(model.denoiser, 0)
    model.keep_normalization(normalization)
    recipe = load_yaml(Recipe, find_config("autodecoder_diffusion", "train"),
                       [f"steps={args.steps}", "warmup=50", "average_decay=0.99", "hold_out=0",
                        *args.set])
    batches = LatentBatches(recipe, np.float32(normalization.apply(latents)))
    trainer = Trainer(model, recipe, batches)
    with Bar(args.steps, text, quiet=args.quiet, waiting="compiling the first step") as bar:
        for _ in range(args.steps):
            row = trainer.advance()
            bar.say(f"loss {row.loss:.4f}")
            bar.update()
    with trainer.averaged():
        made = [sample(model, range(k, k + 4), args.sampling_steps)
                for k in range(0, args.count, 4)]
    return model, np.concatenate(made)[:args.count]


def main(argv=None):
    parser = Arguments(prog="normalization.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    _objects.add_model(parser)
    add = parser.add_argument
    add("--steps", type=int_range(1, 10 ** 7), default=2000, help="of each training (default 2000)")
    add("--sampling-steps", type=int_range(1, 10_000), default=32, help="default 32")
    add("--count", type=int_range(4, 10_000), default=64, help="samples of each (default 64)")
    add("--share", type=float_range(0, 1), default=1e-4, help="of outliers (default 1e-4)")
    add("--far", type=float_range(2, 1e9), default=1e4,
        help="largest outlier, in robust standard deviations (default 10000)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    args = parser.parse_args(argv)
    first = load_autodecoder(args.model, args.ckpt).model
    _objects.trained_views(args, first)
    latents = first.latents_of(range(first.spec.objects))
    poses, tower = Orbit.static(20, 4).poses(), Tower("sv3d_tiny")
    true = tokens(tower, described(first, latents, poses, "trained objects", args.quiet)[0])
    print("latents           normalization         KID  empty")
    for name, values in (("as they are", latents),
                         ("with outliers", with_outliers(latents, args.share, args.far))):
        for way, found in normalizations(values, first.spec.diffusion).items():
            model, made = trained_and_sampled(first.spec, args, values, found, f"{name}, {way}")
            pictures, points = described(model, made, poses, "samples", args.quiet)
            empty = sum(part is None for part in points)
            print(f"{name:17s} {way:19s} {1000 * kid(tokens(tower, pictures), true):6.1f}"
                  f"  {empty:5d}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("normalization.py", main))
