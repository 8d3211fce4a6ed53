#!/usr/bin/env python3
"""Generate and measure the orbits of held-out objects: 16 procedural ones, or the catalogue's 62.

These are the small models' figures in docs/.

  held_back.py --output runs/held_back          # the embedded model, static orbits, elevation 10
  held_back.py --output runs/held_back_dynamic --orbit dynamic
  held_back.py --ckpt runs/sv3d_tiny/averaged.safetensors --output runs/held_back
  held_back.py --catalogue furniture/*.sh3f --output runs/real

--catalogue takes the libraries of real objects (docs/training.md says how to get them). Each object
has two inputs, near its front and three quarters, as two orbits.

Writes OUTPUT/truth, OUTPUT/prediction, and the same model's views when it is conditioned on wrong
poses: OUTPUT/quarter_turn_off (azimuths) and OUTPUT/one_view_off (azimuths and elevations of the
next view), one views folder per object, then runs `evaluate.py views` on them (views.csv,
sheet.png). Finished folders are kept; settings.json says what they were made with, and a run with
other settings is refused.
"""
import argparse
import os
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import numpy as np

from sgm.common.cli import (
    MAX_SEED,
    Arguments,
    check_folder,
    exit_code,
    float_range,
    int_range,
    loading,
    loudness,
)
from sgm.common.errors import InputError
from sgm.common.locks import locked
from sgm.common.progress import each
from sgm.common.records import claim_folder
from sgm.config.model import MAX_NUMBER, MAX_STEPS
from sgm.config.yaml_reader import ConfigError
from sgm.render.seeds import HELD_BACK_SEEDS
from sgm.views.cameras import Orbit


class QuarterTurnOff(Orbit):
    """The same cameras; the network gets azimuths a quarter turn further, the input's excepted."""

    @property
    def azimuths_rad(self):
        """Return the azimuths for the network, (T,) radians."""
        true = super().azimuths_rad
        return np.append((true[:-1] + np.pi / 2) % (2 * np.pi), true[-1])


class OneViewOff(Orbit):
    """The same cameras; the network gets the pose of each next view, the input's excepted."""

    @property
    def azimuths_rad(self):
        """Return the azimuths for the network, (T,) radians."""
        true = super().azimuths_rad
        return np.append(true[1:], true[-1])

    @property
    def polars_rad(self):
        """Return the polar angles for the network, (T,) radians."""
        true = super().polars_rad
        return np.append(true[1:], true[-1])


# folders of views, and the poses that the network was conditioned on
POSES = {"prediction": Orbit, "quarter_turn_off": QuarterTurnOff, "one_view_off": OneViewOff}


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for truth, predictions and figures")
    add("--config", default=None, help="default sv3d_tiny")
    add("--ckpt", default=None, help="default: the embedded weights")
    add("--ema", action="store_true",
        help="take the moving average of the weights (EMA) that --ckpt holds besides them")
    add("--catalogue", nargs="+", default=[], metavar="FILE.sh3f",
        help="take the test objects of these furniture libraries")
    add("--orbit", choices=("static", "dynamic"), default="static",
        help="one turn in equal steps, or a random orbit of the SV3D paper for each object;"
             " default static")
    add("--elevation", type=float_range(-89, 89), default=10.0,
        help="elevation of the input view, degrees; default 10")
    add("--steps", type=int_range(1, MAX_STEPS), default=None, help="default: the model's")
    add("--guidance", type=float_range(-MAX_NUMBER, MAX_NUMBER), nargs=2, default=None,
        metavar=("MIN", "MAX"), help="default: the model's")
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="change one value of the model's configuration")
    add("--seed", type=int_range(0, MAX_SEED), default=23, help="seed of the noise; default 23")
    return parser.parse_args(argv)


def main(argv=None):
    """Render, generate and measure as the flags say; return the exit code."""
    args = parse(argv)
    check_folder(args.output, "--output")
    with locked(args.output, "--output"):
        return make(args)


def make(args):
    """Render, generate and measure; return the exit code."""
    with loading():
        import evaluate

        from sgm import ops
        from sgm.diffusion.pipeline import EMBEDDED, generate, load_model
        from sgm.render.catalogue import catalogue_items, check_whole
        from sgm.render.sets.folders import render_folders
        from sgm.render.sets.items import procedural_items
        from sgm.render.sets.settings import OrbitSettings
        from sgm.views.folder import is_finished
        from sgm.views.images import load_image
        from sgm.views.transforms import read_orbit

    # the objects, the model, and a folder that is its own
    kind = {}
    items = procedural_items(HELD_BACK_SEEDS)
    if args.catalogue:
        check_whole(args.catalogue, "test", "--catalogue")
        items = catalogue_items(args.catalogue, "test")
        kind = {"kind": "catalogue", "up": "y", "fit": "sphere"}
    ops.set_device("CPU")
    engine = load_model(args.config or EMBEDDED[0], args.ckpt, overrides=args.set,
                        ema=args.ema)
    if not engine.spec.is_orbit:
        raise ConfigError(f"--config {args.config}: found a video model, expected an orbit model"
                          " (sv3d_u, sv3d_p, sv3d_tiny)")
    weights = engine.weights_hash() + ", moving average" * args.ema
    claim_folder(args.output, {
        "model": engine.spec.name, "weights": weights, "orbit": args.orbit,
        "elevation": args.elevation, "steps": args.steps, "guidance": args.guidance,
        "set": args.set, "seed": args.seed,
        **({"catalogue": len(items)} if args.catalogue else {})}, "--output")

    # the true views
    truth = args.output / "truth"
    settings = OrbitSettings(size=engine.spec.height, frames=engine.spec.num_frames,
                             orbit=args.orbit, elevation=(args.elevation, args.elevation), **kind)
    failed = render_folders(items, truth, settings, workers=os.cpu_count())
    if failed:
        raise InputError(f"{truth}: {len(failed)} objects failed, see {truth / 'failed.txt'}")

    # the generated ones, conditioned on true and on wrong poses
    folders = sorted(path for path in truth.iterdir() if path.is_dir())
    for folder in each(folders, "", "object", quiet=args.quiet):
        cameras = read_orbit(folder)
        source = np.asarray(load_image(folder / f"{len(cameras) - 1:03d}.png"))
        for name, poses in POSES.items():
            target = args.output / name / folder.name
            if not is_finished(target):
                orbit = poses(cameras.azimuths_deg, cameras.elevations_deg)
                views = generate(engine, source, orbit, seed=args.seed, steps=args.steps,
                                 guidance_range=args.guidance)
                views.save(target, background=(255, 255, 255), formats=())

    # the figures
    prediction, *wrong = (str(args.output / name) for name in POSES)
    return evaluate.main(["views", prediction, str(truth), "--wrong-poses", *wrong,
                          "--csv", str(args.output / "views.csv"),
                          "--sheet", str(args.output / "sheet.png"), *loudness(args)])


def run(argv=None):
    """Run `main` with errors as one line and an exit code."""
    return exit_code("held_back.py", main, argv, "interrupted; finished folders stay")


if __name__ == "__main__":
    sys.exit(run())
