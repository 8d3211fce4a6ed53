#!/usr/bin/env python3
"""Render short videos that are no orbits, for a small image-to-video model.

  render_clips.py --count 2000 --out data/videos64 --size 64

Procedural objects are seen by a camera that slides, approaches and rolls, but stays on their same
side. A model learns from these, as SVD from videos, before it learns orbits. A clip is a folder
OUT/<seed> of frames 000.png ... on white, which train.py reads as a video. What is finished is
kept: start again to continue.
Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import os
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import Arguments, check_folder, exit_code, int_range
from sgm.common.locks import locked
from sgm.common.progress import progress_bar
from sgm.render.seeds import TRAIN_SEEDS


def main(argv=None):
    """Render what the flags ask for; return the exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--count", type=int_range(1, len(TRAIN_SEEDS)), required=True, metavar="N",
        help="clips, one of each object")
    add("--out", type=Path, required=True, help="folder for them")
    add("--size", type=int_range(8, 8192), default=64, metavar="PIXELS",
        help="side of a frame (default 64)")
    add("--frames", type=int_range(2, 1000), default=21, metavar="N",
        help="frames of a clip (default 21)")
    add("--first-seed", type=int_range(0, TRAIN_SEEDS[-1]), default=0, metavar="N",
        help="seed of the first object (default 0)")
    add("--workers", type=int_range(1, 1000), default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes (default: one a core)")
    args = parser.parse_args(argv)
    check_folder(args.out, "--out")
    from sgm.render.video_clips import render_video_clips
    seeds = range(args.first_seed, args.first_seed + args.count)
    with locked(args.out, "--out"), progress_bar("clip", args.quiet) as progress:
        render_video_clips(seeds, args.out, args.size, args.frames, workers=args.workers,
                           progress=progress)
    print(f"{args.out}: {len(seeds)} clips")
    return 0


def run(argv=None):
    """Return the exit code of `main`; errors are one line."""
    return exit_code("render_clips.py", main, argv, "interrupted; finished clips stay")


if __name__ == "__main__":
    sys.exit(run())
