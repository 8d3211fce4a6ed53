#!/usr/bin/env python3
"""Measure generated views by their error and by their sharpness, over settings of the sampler.

  python benchmarks/sharpness.py data/real_val --ckpt runs/sv3d_small/averaged.safetensors
  python benchmarks/sharpness.py data/real_val --steps 3 10 25 --start-noise 0.25 1 --guidance 1 1.5

Each orbit of the packed sets (`tools/render_orbits.py --pack`) is generated from its last view, by
every combination of the settings. Printed are, as means over views or ratios over all of them:
foreground PSNR (dB) and silhouette IoU; then, for views within 60 degrees of the input view and for
those beyond, the energy of edges in two octaves (pixels of 0.5 to 1 and of 1 to 2) beside the
truth's inside the silhouette, and 1000 times the kernel distance (KID) of the features of the
model's own encoder. A mean of what is possible has the highest PSNR, few edges and a large KID. In
the first rows stand the autoencoder alone, the input repeated and the mean of the true orbit.

--csv writes the table, anew after each setting, --sheets a picture for each: of six objects the
true views above the generated ones, input view first.
Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import csv
import itertools
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402

from sgm import ops  # noqa: E402
from sgm.common.cli import (  # noqa: E402
    MAX_SEED,
    Arguments,
    exit_code,
    float_range,
    int_range,
    loading,
)
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.progress import each  # noqa: E402
from sgm.config.model import MAX_NUMBER, MAX_STEPS  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import position  # noqa: E402
from sgm.views.images import save_png  # noqa: E402

NEAR = 60.0             # degrees from the input view that part the views
SHOWN = 6               # objects on a sheet
COLUMNS = ("psnr_fg", "iou", "near_edges_1", "near_edges_2", "near_kid", "far_edges_1",
           "far_edges_2", "far_kid")
HEAD = ("{:34s}" + " {:>8s}" * 8).format("", "PSNR_fg", "IoU", "edges 1", "2", "KID", "beyond: 1",
                                         "2", "KID")
ROW = "{:34s} {:8.2f} {:8.3f} {:8.3f} {:8.3f} {:8.1f} {:9.3f} {:8.3f} {:8.1f}"


def from_input(orbit):
    """Return the angles (T,) in degrees between the views of an orbit and its last one."""
    eyes = np.array([position(*angles, 1.0)
                     for angles in zip(orbit.azimuths_deg, orbit.elevations_deg)])
    return np.degrees(np.arccos(np.clip(eyes @ eyes[-1], -1, 1)))


class Features(nn.Cell):
    """What the last layer of an encoder takes."""

    def __init__(self, encoder):
        super().__init__(auto_prefix=False)
        self.encoder = encoder

    def construct(self, x):
        return self.encoder.features(x)


def features(engine, views, chunk=21):
    """Return the features (N, C) of views (N, H, W, 3) uint8.

    They are the means over pixels of what the last layer of the model's encoder takes.
    """
    from sgm.views.preprocessing import to_network
    encoder = engine.conditioner.embedder("cond_frames").encoder.encoder
    found = []
    with engine.weights_loaded("conditioner"):
        graph = engine.graph("features", lambda: Features(encoder).construct)
        for start in range(0, len(views), chunk):
            part = views[start:start + chunk]
            padded = np.concatenate([part, np.repeat(part[-1:], chunk - len(part), 0)])
            pixels = np.concatenate([to_network(view) for view in padded])
            found.append(ops.fetch(graph(Tensor(pixels)))[:len(part)].mean((2, 3)))
    return np.concatenate(found)


class Measure:
    """The figures of views against the true ones.

    truths: the orbits (T, H, W, 4) uint8; near: for each (T - 1,) bool, the views near the input.
    """

    def __init__(self, engine, truths, near):
        self.engine, self.truths, self.near = engine, truths, np.concatenate(near)
        self.seen = np.concatenate([_white(truth[:-1]) for truth in truths])
        self.features = features(engine, self.seen)

    def __call__(self, orbits):
        """Return {column: number} of orbits, a list of (T, H, W, 3) uint8."""
        each_view = [view for made, truth in zip(orbits, self.truths)
                     for view in metrics.compare_orbit(made, truth)]
        row = {name: float(np.mean([view[name] for view in each_view]))
               for name in ("psnr_fg", "iou")}
        made = np.concatenate([orbit[:-1] for orbit in orbits])
        true = np.concatenate([truth[:-1] for truth in self.truths])
        found = features(self.engine, made)
        for name, chosen in (("near", self.near), ("far", ~self.near)):
            ratios = metrics.edge_ratio(made[chosen], true[chosen])
            row.update({f"{name}_edges_{k}": float(ratio) for k, ratio in enumerate(ratios, 1)})
            row[f"{name}_kid"] = 1000 * metrics.kid(found[chosen], self.features[chosen])
        return row


def _white(views):
    """Return views (T, H, W, 3 or 4) uint8 on white, (T, H, W, 3) uint8."""
    return np.round(metrics.on_white(views) * 255).astype(np.uint8)


def round_trips(engine, truths):
    """Return the true orbits as the autoencoder gives them back."""
    from sgm.views.preprocessing import from_network, to_network
    made = []
    for truth in truths:
        pixels = np.concatenate([to_network(view) for view in _white(truth)])
        latents = engine.encode_moments(pixels)[0] * engine.spec.vae.scale_factor
        made.append(from_network(engine.decode(latents)))
    return made


def sheet(truths, orbits):
    """Return a picture: of SHOWN orbits the true views above the generated ones."""
    chosen = np.unique(np.linspace(0, len(truths) - 1, SHOWN).astype(int))
    rows = []
    for index in chosen:
        views = np.unique(np.linspace(0, len(truths[index]) - 2, 9).astype(int))
        for orbit in (_white(truths[index]), orbits[index]):
            rows.append(np.concatenate([orbit[-1], *orbit[views]], 1))
        rows.append(np.full((6, *rows[-1].shape[1:]), 255, np.uint8))
    return np.concatenate(rows[:-1])


def write_table(path, rows):
    """Write the rows {column: value} that there are so far."""
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def compare(args):
    """Generate and measure as the flags say; return the exit code."""
    with loading():
        from sgm.diffusion.pipeline import EMBEDDED, generate, load_model
        from sgm.train.data.packed import PackedOrbits
    ops.set_device("CPU")
    engine = load_model(args.config or EMBEDDED[0], args.ckpt, overrides=args.set)
    spec = engine.spec.sampling
    clips = PackedOrbits(args.data)
    if clips.size != engine.spec.height:
        raise InputError(f"{args.data[0]}: has views of {clips.size} pixels, expected"
                         f" {engine.spec.height}, which {engine.spec.name} makes; render it with"
                         f" --size {engine.spec.height}")
    indices = np.unique(np.linspace(0, len(clips) - 1, min(args.objects, len(clips))).astype(int))
    orbits = [clips.orbit(k) for k in indices]
    truths = [clips[k].arrays["clips"][clips[k].row] for k in indices]
    measure = Measure(engine, truths, [from_input(orbit)[:-1] <= NEAR for orbit in orbits])
    rows = []

    def add(name, made, seconds=None):
        rows.append({"views": name, "seconds": seconds, **measure(made)})
        print(ROW.format(name, *(rows[-1][column] for column in COLUMNS)), flush=True)
        if args.csv:
            write_table(args.csv, rows)
        if args.sheets:
            args.sheets.mkdir(parents=True, exist_ok=True)
            save_png(args.sheets / f"{name.replace(' ', '_')}.png", sheet(truths, made))

    print(f"{len(truths)} orbits of {', '.join(map(str, args.data))}\n{HEAD}")
    add("autoencoder", round_trips(engine, truths))
    add("input repeated", [_white(metrics.input_repeated(truth)) for truth in truths])
    add("mean of true orbit", [metrics.mean_of_orbit(truth) for truth in truths])
    for steps, noise, scale, sampler in itertools.product(
            args.steps or [spec.steps], args.start_noise or [spec.start_noise],
            args.guidance or [spec.max_scale], args.sampler or [spec.sampler]):
        spec.start_noise, spec.guidance, made, began = noise, "constant", [], time.perf_counter()
        for truth, orbit in each(list(zip(truths, orbits)), "", "object", quiet=args.quiet):
            made.append(generate(engine, truth[-1], orbit, seed=args.seed, steps=steps,
                                 sampler=sampler, guidance_range=(scale, scale)).frames)
        add(f"{sampler} steps {steps} noise {noise:g} scale {scale:g}", made,
            (time.perf_counter() - began) / len(truths))
    return 0


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", nargs="+", type=Path, help="packed sets")
    add("--config", default=None, help="model (default: the embedded one)")
    add("--ckpt", default=None, help="weights (default: the embedded ones)")
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="change one value of the model's configuration")
    add("--objects", type=int_range(2, MAX_NUMBER), default=16,
        help="number of orbits, evenly spaced in the sets (default 16)")
    add("--steps", type=int_range(1, MAX_STEPS), nargs="+", help="sampling steps")
    add("--start-noise", type=float_range(0, 1), nargs="+",
        help="standard deviation of the first noise, relative to sigma_max")
    add("--guidance", type=float_range(-MAX_NUMBER, MAX_NUMBER), nargs="+",
        help="guidance scales, the same for all views")
    add("--sampler", choices=("euler", "heun", "dpmpp2m"), nargs="+")
    add("--seed", type=int_range(0, MAX_SEED), default=23, help="seed of the noise (default 23)")
    add("--csv", type=Path, metavar="FILE", help="write the table, with seconds an orbit")
    add("--sheets", type=Path, metavar="DIR", help="write a picture for each setting")
    return parser.parse_args(argv)


def main(argv=None):
    return compare(parse(argv))


if __name__ == "__main__":
    sys.exit(exit_code("sharpness.py", main))
