#!/usr/bin/env python3
"""Measure the estimator of an input's elevation: mean absolute error, beside that of a constant.

  python benchmarks/elevation.py data/dynamic128/val --ckpt runs/elevation/averaged.safetensors
  python benchmarks/elevation.py --ckpt ... --image orbits/bear/020.png=30 --image cup.png=10

SETS: packed sets of tools/render_orbits.py; of each object the last view, the input, which is
within the set's --elevation, placed as image_to_mesh.py places a photograph. --image FILE=DEGREES:
pictures whose elevation is known. Of each set, and of all pictures, a line says how many there are,
the mean absolute error in degrees, the mean error (estimate minus truth), the largest, and the mean
absolute error of always saying their mean elevation.
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

from sgm.common.cli import Arguments, exit_code  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.progress import each  # noqa: E402
from sgm.feedforward.reconstructor import load_lrm  # noqa: E402
from sgm.train.objects.masked_views import MaskedViews  # noqa: E402
from sgm.views.images import load_image  # noqa: E402
from sgm.views.preprocessing import cut_object  # noqa: E402


def known(text):
    """Return FILE=DEGREES as (Path, degrees): the argparse type of --image."""
    file, _, degrees = text.rpartition("=")
    try:
        value = float(degrees)
    except ValueError:
        value = np.nan
    if not file or not abs(value) <= 90:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected FILE=DEGREES, from -90 to 90")
    return Path(file), value


def inputs_of(place):
    """Yield (cut-out input (S, S, 4) uint8, degrees of elevation) of the objects of a set."""
    clips = MaskedViews([place], key="sets")
    for index, clip in enumerate(clips.packed.items):
        yield clip.arrays["clips"][clip.row][-1], clips.angles[index][-1, 1]


def line(name, estimates, truth):
    """Return a line of the table; estimates and truth (N,) in degrees."""
    error = np.subtract(estimates, truth)
    constant = np.abs(truth - np.mean(truth)).mean()
    return (f"{name}: {len(error)} inputs from {np.min(truth):.0f} to {np.max(truth):.0f} degrees,"
            f" mean absolute error {np.abs(error).mean():.1f}, mean {error.mean():+.1f}, largest"
            f" {np.abs(error).max():.1f}; always their mean: {constant:.1f}")


def main(argv=None):
    """Measure; return the exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("sets", nargs="*", help="packed sets with alpha")
    add("--image", type=known, action="append", default=[], metavar="FILE=DEGREES",
        help="a picture and the elevation of its camera")
    add("--config", default="lrm_small", help="the network (default lrm_small)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of it")
    add("--ckpt", help="its weights (default: the embedded ones, if any)")
    args = parser.parse_args(argv)
    if not args.sets and not args.image:
        raise InputError("sets: found none, and no --image, expected one of them")
    model = load_lrm(args.config, args.ckpt, args.set)
    tables = {place: list(inputs_of(place)) for place in args.sets}
    if args.image:
        tables["--image"] = [(cut_object(load_image(path), name=path.name).image, degrees)
                             for path, degrees in args.image]
    for name, inputs in tables.items():
        found = [model.elevation_of(picture)
                 for picture, _ in each(inputs, name, "input", quiet=args.quiet)]
        print(line(name, found, [degrees for _, degrees in inputs]))
        if name == "--image":
            for (path, degrees), estimate in zip(args.image, found):
                print(f"  {path}: {estimate:.1f}, known {degrees:g}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("elevation.py", main))
