#!/usr/bin/env python3
"""Measure what an autodecoder generates against fresh objects, and whether it only remembers.

  python benchmarks/autodecoder/generation.py --ckpt FILE --data data/rings64 \\
      --reference data/fresh64 --fits runs/fits --count 200 --out runs/generation

Compared are the diffusion with 16, 32 and 64 steps with added noise (the model's churn) and with 64
without, normal distributions of the embeddings (the paper's baseline) and of the latents' principal
components, and the trained objects themselves (the best that can be; without those that were held
out of the denoiser's training). --reference: a packed set of procedural objects that were not
trained on, as large as --count.
Printed, of each:
  KID    x 1000, of the tokens that the image tower of the embedded sv3d_tiny makes of four views
  COV    share of as many references as samples that are the nearest of one, by Chamfer distance of
         shapes; samples without a surface are nearest to none
  MMD    x 1000, mean distance of a reference to the nearest sample
  1-NNA  how often a shape's nearest other one is of its own set, of as many references as there
         are samples with a surface; 0.5 is best
  near   median distance to the nearest trained object, x 1000
  p      of a Kolmogorov-Smirnov test that these distances are those of --fits, unseen objects as
         the decoder shows them (fits.py --out): a small p with a smaller median is memorization
  empty  samples without a surface
Chamfer distances are of 512 points of each surface. --out keeps the latents, so that the same
command continues, and sheet.png, the five pairs of samples of 64 steps and trained objects that are
closest.
Exit code: 0 done, 2 wrong input, 130 interrupted (finished latents are kept).
"""
import argparse
import sys
from pathlib import Path

import _objects  # first: finds this checkout's sgm
import _set_metrics

# isort: split
import numpy as np
from scipy.stats import ks_2samp

from sgm.autodecoder import fitting
from sgm.autodecoder.latents.conditions import Tower
from sgm.autodecoder.noted import HELD_OBJECTS
from sgm.autodecoder.object_folder import as_levels
from sgm.autodecoder.pipeline import load_autodecoder
from sgm.autodecoder.surface import level_set
from sgm.common.cli import Arguments, check_folder, exit_code, int_range
from sgm.common.errors import InputError
from sgm.common.progress import Bar, each
from sgm.geometry.metrics import sample
from sgm.render.families.named import procedural_object
from sgm.render.procedural import on_white
from sgm.train.objects.masked_views import MaskedViews
from sgm.train.objects.object_describing import names_of
from sgm.train.run.validation import captioned
from sgm.views.cameras import Orbit
from sgm.views.images import save_png
from sgm.views.metrics import kid

POINTS, VIEWS, BATCH, CLOSEST = 512, 4, 8, 5


def gaussian_embeddings(model, count, rng):
    """Return the latents of embeddings from the normal distribution of the trained ones."""
    found = fitting.distribution(fitting.embeddings_of(model, np.arange(model.spec.objects)))
    rows = found.mean + rng.standard_normal((count, len(found.basis)), np.float32) @ found.basis
    made = [model.run("latent_decoder", row[None]) for row in np.float32(rows)]
    return np.stack(made)


def gaussian_latents(trained, count, rng):
    """Return latents from the normal distribution of the trained ones' principal components."""
    flat = trained.reshape(len(trained), -1)
    found = fitting.distribution(flat)
    rows = found.mean + rng.standard_normal((count, len(found.basis)), np.float32) @ found.basis
    return np.float32(rows).reshape(count, *trained.shape[1:])


def methods(objects, trained, args):
    """Return {name: function that makes latents (count, 8^3, C)}."""
    def diffused(steps, churn=None):
        def make():
            with Bar(steps * -(-args.count // 4), f"{steps} steps", quiet=args.quiet) as bar:
                return objects.sample(range(args.count), steps, churn, progress=lambda done, total:
                                      bar.update(done - bar.done))
        return make
    rng = np.random.default_rng(0)
    chosen = np.random.default_rng(1).permutation(len(trained))[:args.count]
    return {**{f"{steps} steps": diffused(steps) for steps in args.steps},
            f"{max(args.steps)}, churn 0": diffused(max(args.steps), 0.0),
            "embeddings": lambda: gaussian_embeddings(objects.model, args.count, rng),
            "components": lambda: gaussian_latents(trained, args.count, rng),
            "trained": lambda: trained[chosen]}


def described(model, latents, poses, text, quiet):
    """Return views (N, V, S, S, 4) uint8 and points of the surfaces: a list, None where empty."""
    pictures, points = [], []
    for start in each(range(0, len(latents), BATCH), text, "batch", quiet=quiet):
        some = latents[start:start + BATCH]
        padded = np.resize(some, (BATCH, *some.shape[1:]))
        made = model.render(padded, poses, model.spec.size)[:len(some)]
        pictures.append(np.round(made * 255).astype(np.uint8))
        for volume in model.volumes_of(padded)[:len(some)]:
            try:
                points.append(sample(*level_set(volume), POINTS, 0)[0])
            except InputError:
                points.append(None)
    return np.concatenate(pictures), points


def tokens(tower, pictures):
    """Return the tokens (N * V, D) of views (N, V, S, S, 4) uint8."""
    frames = on_white(pictures.reshape(-1, *pictures.shape[2:])).astype(np.float32)
    return tower.tokens((frames / 127.5 - 1).transpose(0, 3, 1, 2))[:, 0]


def fitted_latents(folder, model):
    """Return the latents that fits.py made of most views, with this decoder. Raises InputError."""
    settings = _objects.Kept.settings(folder) or {}
    files = sorted(folder.glob(f"*_of_{settings.get('most')}_views.npz"))
    if settings.get("decoder") != _objects.weights_hash(model) or not files:
        raise InputError(f"--fits {folder}: found {len(files)} fits, of other weights or none,"
                         " expected those of fits.py with the stage 1 of --ckpt")
    return np.stack([np.load(path)["latent"] for path in files])


def trained_objects(model):
    """Return the numbers of the objects that the denoiser was trained on."""
    objects, hold_out = np.arange(model.spec.objects), int(model.notes.get(HELD_OBJECTS, 0))
    return objects[objects % hold_out > 0] if hold_out else objects


def main(argv=None):
    args = parse(argv)
    objects = load_autodecoder(args.model, args.ckpt)
    model = objects.model
    _objects.trained_views(args, model)
    reference = MaskedViews(args.reference, model.spec.size)
    if len(reference) < args.count:
        raise InputError(f"--reference: found {len(reference)} objects, expected --count"
                         f" {args.count}")
    # of Orbit.rings such that all its rings are among them: those of a third are of one
    chosen = np.arange(VIEWS) * (reference.num_frames // VIEWS + 1) % reference.num_frames
    poses, tower = reference.poses(0, chosen), Tower("sv3d_tiny")
    places = _objects.spread(args.count, len(reference))
    shown = np.stack([reference.pictures(k, chosen) for k in places])
    shown = shown.transpose(0, 1, 3, 4, 2)
    true_tokens = tokens(tower, as_levels(shown[..., :3], shown[..., 3]))
    names = np.array(names_of(reference.packed))[places].tolist()
    known = [procedural_object(name) for name in names]
    if None in known:
        raise InputError(f"--reference: found {names[known.index(None)]}, expected procedural"
                         " objects, whose names are seeds")
    true_points = [sample(mesh.vertices, mesh.faces, POINTS, 0)[0]
                   for mesh in (item.load() for item in known)]

    def matrix(first, second, text):
        return _set_metrics.chamfer_matrix(
            first, second, lambda items: each(items, text, "shape", quiet=args.quiet))
    true_distances = matrix(true_points, true_points, "references")
    trained = model.latents_of(trained_objects(model))
    _, trained_points = described(model, trained, poses[:1], "trained objects", args.quiet)
    places = [k for k, points in enumerate(trained_points) if points is not None]
    trained_points = [trained_points[k] for k in places]
    unseen = None
    if args.fits:
        _, points = described(model, fitted_latents(args.fits, model), poses[:1], "fits",
                              args.quiet)
        unseen = matrix([p for p in points if p is not None], trained_points, "fits").min(1)
    print(f"{args.count} samples, {len(true_points)} references, {len(places)} trained objects")
    kept = _objects.Kept(args.out, {"weights": _objects.weights_hash(model, True),
                                    "count": args.count})
    print("                KID     COV    MMD   1-NNA   near      p  empty")
    for name, make in methods(objects, trained, args).items():
        latents = kept(name.replace(", ", "_").replace(" ", "_"),
                       lambda make=make: {"latents": make()})["latents"]
        pictures, points = described(model, latents, poses, name, args.quiet)
        solid = [k for k, found in enumerate(points) if found is not None]
        points = [points[k] for k in solid]
        value = kid(tokens(tower, pictures), true_tokens)
        row = {"KID": 1000 * value, "empty": len(latents) - len(solid)}
        if points:
            across = matrix(points, true_points, name)
            own = matrix(points, points, name)
            count = len(true_points)    # sets of one size; empty samples count for coverage alone
            of_all = across[:, _objects.spread(min(len(latents), count), count)]
            row["COV"] = _set_metrics.coverage(of_all)
            row["MMD"] = 1000 * _set_metrics.minimum_matching_distance(of_all)
            alike = _objects.spread(len(points), count)
            row["1-NNA"] = _set_metrics.nearest_neighbor_accuracy(
                own, across[:, alike], true_distances[np.ix_(alike, alike)])
            if name != "trained":
                near = matrix(points, trained_points, name)
                row["near"] = 1000 * np.median(near.min(1))
                if unseen is not None:
                    row["p"] = ks_2samp(near.min(1), unseen).pvalue
                if name == f"{max(args.steps)} steps":
                    draw_closest(args.out / "sheet.png", model, latents[solid], trained[places],
                                 near)
        print(f"{name:14s}" + "".join(f"{row.get(key, np.nan):7.3g}" for key in
                                      ("KID", "COV", "MMD", "1-NNA", "near", "p", "empty")),
              flush=True)
    if unseen is not None:
        print(f"unseen objects: near {1000 * np.median(unseen):.3g}")
    return 0


def draw_closest(path, model, latents, trained, near):
    """Write the samples that are nearest to trained objects above these."""
    rows, orbit = [], Orbit.static(20, 8)
    for k in near.min(1).argsort()[:CLOSEST]:
        pair = np.stack([latents[k], trained[near[k].argmin()]])
        made = np.round(model.render(pair, orbit.poses(), model.spec.size) * 255).astype(np.uint8)
        rows.append(captioned(f"sample, nearest trained object; distance {near[k].min():.4f}",
                              *(on_white(views) for views in made)))
    save_png(path, np.concatenate(rows))


def parse(argv):
    parser = Arguments(prog="generation.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    _objects.add_model(parser)
    add = parser.add_argument
    add("--reference", nargs="+", required=True, help="packed sets of fresh procedural objects")
    add("--fits", type=Path, metavar="DIR", help="what fits.py --out wrote")
    add("--count", type=int_range(2, 100_000), default=200, help="samples (default 200)")
    add("--steps", type=lambda text: [int(part) for part in text.split(",")], default=[16, 32, 64],
        help="of the sampler (default 16,32,64)")
    add("--out", type=Path, required=True, help="folder of latents and sheet.png")
    args = parser.parse_args(argv)
    check_folder(args.out, "--out")
    return args


if __name__ == "__main__":
    sys.exit(exit_code("generation.py", main))
