#!/usr/bin/env python3
"""Render short videos that are no orbits: procedural toy objects before a camera that slides, approaches, tilts, but
stays on their same side.  What a small image-to-video model learns from, as SVD from videos, before it learns orbits.

  render_clips.py --count 2000 --out data/films64 --size 64

A clip is a folder OUT/<seed> of frames 000.png ... on white, which train.py reads as a video.  What is finished is kept:
start again to go on.  Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import numpy as np
from PIL import Image
from render_orbits import in_processes
from tqdm import tqdm

from sgm.common.cli import (
    Arguments,
    check_folder,
    exit_code,
    int_range,
)
from sgm.common.errors import InputError, os_reason
from sgm.config.model import MAX_FRAMES, MAX_SIDE
from sgm.render.procedural import TRAIN_SEEDS, make_object, on_white
from sgm.render.zbuffer import SOFT, render_views
from sgm.views.cameras import DISTANCE, FOV_DEG, camera_to_world

SLIDE = (0.25, 0.2, 0.5)    # most that the camera moves to a side, up or down, and along its line of sight; world units
ROLL = 25.0                 # degrees, most that it turns about that line
SUPERSAMPLE = 2


def clip_poses(rng, count):
    """A camera in steady motion -> (count, 4, 4) float64 OpenGL camera-to-world; it starts looking at the origin.

    It never turns about the object: where it stands and how far it moves, sideways, up, along its line of sight and about
    it, is uniform within `SLIDE` and `ROLL`.
    """
    start = camera_to_world(rng.uniform(0, 360), rng.uniform(-5, 30), DISTANCE)
    shift, roll = rng.uniform(-1, 1, 3) * SLIDE, np.deg2rad(rng.uniform(-ROLL, ROLL))
    poses = []
    for share in np.linspace(0, 1, count):
        c, s = np.cos(share * roll), np.sin(share * roll)
        motion = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        motion[:3, 3] = share * shift
        poses.append(start @ motion)
    return np.stack(poses)


def render(seed, out, size, count):
    """One clip into out/seed, whole or not at all."""
    final, unfinished = Path(out, f"{seed:07d}"), Path(out, f".{seed:07d}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    poses = clip_poses(np.random.RandomState(seed), count)
    views = on_white(render_views(make_object(seed), poses, size, FOV_DEG, supersample=SUPERSAMPLE, lighting=SOFT))
    try:
        unfinished.mkdir()
        for k, view in enumerate(views):
            Image.fromarray(view).save(unfinished / f"{k:03d}.png")
        os.replace(unfinished, final)
    except OSError as error:
        raise InputError(f"--out {final}: cannot be written: {os_reason(error)}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main(argv=None):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--count", type=int_range(1, len(TRAIN_SEEDS)), required=True, metavar="N", help="clips, one of each object")
    add("--out", type=Path, required=True, help="folder for them")
    add("--size", type=int_range(8, MAX_SIDE), default=64, metavar="PIXELS", help="side of a frame (default 64)")
    add("--frames", type=int_range(2, MAX_FRAMES), default=21, metavar="N", help="of a clip (default 21)")
    add("--first-seed", type=int_range(0, TRAIN_SEEDS[-1]), default=0, metavar="N", help="of the first object (default 0)")
    add("--workers", type=int_range(1, 1000), default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes (default: one a core)")
    args = parser.parse_args(argv)
    check_folder(args.out, "--out")
    args.out.mkdir(parents=True, exist_ok=True)
    seeds = range(args.first_seed, args.first_seed + args.count)
    todo = [seed for seed in seeds if not (args.out / f"{seed:07d}").is_dir()]
    made = in_processes(partial(render, out=str(args.out), size=args.size, count=args.frames), todo, args.workers)
    with tqdm(total=len(seeds), initial=len(seeds) - len(todo), unit="clip", smoothing=0.05) as bar:
        for _ in made:
            bar.update()
    print(f"{args.out}: {len(seeds)} clips")
    return 0


def run(argv=None):
    """`main` with errors as one line and an exit code."""
    return exit_code("render_clips.py", main, argv, "interrupted; finished clips stay")


if __name__ == "__main__":
    sys.exit(run())
