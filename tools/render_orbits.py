#!/usr/bin/env python3
"""Render orbits with exact cameras: views folders, or one packed array.

  render_orbits.py procedural --count 2000 --out data/objects --size 64
  render_orbits.py procedural --count 2000 --out data/objects64 --size 64 --pack
  render_orbits.py procedural --family one_sided --count 1500 --out data/one_sided --size 128 --pack
  render_orbits.py meshes models/*.glb more/ --out data/models --size 576
  render_orbits.py meshes models/*.glb --out data/degraded --degrade
  render_orbits.py catalogue furniture/*.sh3f --split test --out data/test --size 128

Objects are procedural, by seed, mesh files (also within folders and zip archives), or those of a
split of the catalogue (assets/catalogue.csv; docs/training.md says how to get its libraries). A
views folder has 000.png ... (RGBA, straight alpha; the input view is last, at azimuth 0) and
transforms.json. A packed set has clips.npy (N, T, H, W, 4) uint8 with straight alpha, azimuths.npy
and elevations.npy (N, T) float32 degrees, and names.npy (N,) text; cameras are 2 from the origin.
Read clips.npy with numpy.load(..., mmap_mode="r").

Procedural objects are of one of two families. Half a turn leaves those of half_turn as they are;
one_sided are mugs, cars, chairs and others with a front and a back, turned any way. An object's
name is its seed, with the family in front if it is one_sided. A seed of another kind than --kinds
is left out, and the next one taken. The kind animal of one_sided is for tests: it is not rendered
unless --kinds names it.

With --variations N each mesh is rendered in N forms instead of its own: stretched by up to 15 %
along each axis, mirrored or not, turned about the vertical, with hue and brightness changed, under
lights of its own. Without, the catalogue's val and test objects are rendered twice each: the input
view near the front, and three quarters. --orbit rings: the same 36 cameras for all objects, on
three rings; views 0, 3, 6, ... are to evaluate with (sgm.views.cameras.Orbit.rings).

With --degrade the views have the faults of generated ones, as strong as in genuine orbits of SV3D:
highlights of a light that moves with the camera, brightness and hue that drift, warps, a thin part
that is missing in some views, and a transforms.json whose elevation is off by 5 degrees. The folder
`truth` within has the clean views, the true cameras and the shape (mesh.ply).

What is finished is kept: start again with the same options to continue. Every object has its own
elevation and orbit, and with --lighting varied its own lights, drawn from --seed and its name
alone, so the number of workers and the order do not matter. With --frames 84 train.py takes any 21
of an orbit's views, each of which can be the input view.
Exit code: 0 done, 1 some objects failed (listed in OUT/failed.txt), 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import (
    MAX_SEED,
    Arguments,
    check_folder,
    exit_code,
    float_range,
    int_range,
)
from sgm.common.errors import InputError
from sgm.common.locks import locked
from sgm.common.progress import progress_bar
from sgm.render.families.named import FAMILIES, HALF_TURN, trained_kinds

log = logging.getLogger("sgm")


def parse(argv=None) -> argparse.Namespace:
    """Return the flags. Raises InputError for values that do not fit together."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--out", required=True, help="folder to fill")
    add("--size", type=int_range(8, 4096), default=576, help="pixels per side (default 576)")
    add("--frames", type=int_range(2, 1000),
        help="views per orbit: 21 (default), or 84 to train on any 21 of them; of rings 36")
    add("--orbit", choices=("static", "dynamic", "rings"), default="static",
        help="constant elevation, the random orbits of the SV3D paper, or 36 fixed cameras on"
             " three rings (default static)")
    add("--elevation", type=float_range(-89,
                                        89), nargs=2, default=(-5.0, 30.0), metavar=("MIN", "MAX"),
        help="range of the input view's elevation in degrees (default -5 30, as in the paper)")
    add("--lighting", choices=("fixed", "varied"), default="fixed",
        help="the same lights for all objects, or soft lights of each object's own (default fixed)")
    add("--degrade", action="store_true",
        help="give the views the faults of generated ones, and write the truth beside them")
    add("--supersample", type=int_range(1, 8), default=2,
        help="samples per pixel and side (default 2)")
    add("--seed", type=int_range(0, MAX_SEED), default=0,
        help="draws elevations, orbits, lights, variations and faults (default 0)")
    add("--workers", type=int_range(1, 1024), default=os.cpu_count(),
        help="processes (default: all CPUs)")
    add("--overwrite", action="store_true",
        help="delete what an earlier run left in --out, unless something else is in it")
    add("--pack", action="store_true",
        help="one set of .npy arrays instead of folders of PNGs; of meshes needs --fit sphere")
    varied = argparse.ArgumentParser(add_help=False)
    varied.add_argument("--variations", type=int_range(1, 99), metavar="N",
                        help="N varied forms of each object, to train on (default: as it is)")
    procedural = commands.add_parser("procedural", parents=[common],
                                     help="procedural objects by seed")
    procedural.add_argument("--count", type=int_range(1, 10**8), required=True,
                            help="number of objects")
    procedural.add_argument("--family", choices=tuple(FAMILIES), default=HALF_TURN,
                            help=f"which objects (default {HALF_TURN})")
    procedural.add_argument("--kinds", metavar="KIND,KIND,...",
                            help="only these kinds of the family (default all, but those held out"
                                 " of training); " + "; ".join(
                                     f"{family}: {', '.join(module.KINDS)}" + "".join(
                                         f" ({kind}: held out)" for kind in module.HELD_OUT)
                                     for family, module in FAMILIES.items()))
    procedural.add_argument("--first-seed", type=int_range(0, MAX_SEED), default=0,
                            help="seed of the first object (0-99999 are for training,"
                                 " 1000000 and above held out; default 0)")
    meshes = commands.add_parser("meshes", parents=[common, varied], help="mesh files")
    meshes.add_argument("paths", nargs="+",
                        help="mesh files, or folders and zip archives searched for them")
    meshes.add_argument("--up", choices=("auto", "y", "z"), default="auto",
                        help="the files' up axis; auto: y for glb and gltf, z for others (default"
                             " auto)")
    meshes.add_argument("--fit", choices=("box", "sphere"), default="box",
                        help="scale the longest side of the bounding box to 1, or the radius to 0.5"
                             " (default box)")
    catalogue = commands.add_parser("catalogue", parents=[common, varied],
                                    help="real objects, of furniture libraries")
    catalogue.add_argument("paths", nargs="+", metavar="FILE.sh3f", help="the libraries")
    catalogue.add_argument("--split", choices=("train", "val", "test"), required=True,
                           help="which of the objects, as assets/catalogue.csv says")
    catalogue.set_defaults(up="y", fit="sphere")
    args = parser.parse_args(argv)
    usual = 36 if args.orbit == "rings" else 21
    if args.orbit == "rings" and args.frames not in (None, usual):
        raise InputError(f"--frames is {args.frames}; --orbit rings has {usual} cameras: leave it"
                         " out")
    args.frames = args.frames or usual
    if args.pack and getattr(args, "fit", "sphere") != "sphere":
        raise InputError("--pack: found --fit box, and the cameras of a packed set all stand 2"
                         " from the origin; give --fit sphere")
    args.out = Path(args.out).resolve()
    if args.elevation[0] > args.elevation[1]:
        raise InputError(f"--elevation is {args.elevation[0]:g} {args.elevation[1]:g}; expected MIN"
                         " <= MAX")
    if args.degrade and args.pack:
        raise InputError("--degrade: found --pack, which has no place for the truth; leave one of"
                         " them out")
    if args.degrade and getattr(args, "variations", None):
        raise InputError("--degrade: found --variations, which changes colors afterwards; leave one"
                         " of them out")
    if args.command == "procedural" and args.first_seed + args.count > MAX_SEED + 1:
        raise InputError(f"--first-seed {args.first_seed} --count {args.count}: seeds must stay"
                         " under 2^32")
    if args.command == "procedural":
        args.kinds = read_kinds(args.kinds, args.family)
    return args


def read_kinds(text: str | None, family: str) -> tuple[str, ...] | None:
    """Return the kinds that --kinds lists, in the family's order; None: all. Raises InputError."""
    known = FAMILIES[family].KINDS
    if text is None:
        return trained_kinds(family) if FAMILIES[family].HELD_OUT else None
    wrong = [kind for kind in text.split(",") if kind not in known]
    if wrong:
        raise InputError(f"--kinds: found {wrong[0]!r}, expected some of {','.join(known)}, the"
                         f" kinds of --family {family}")
    return tuple(kind for kind in known if kind in text.split(","))


def main(argv=None) -> int:
    """Render what the flags ask for; return the exit code."""
    args = parse(argv)
    from sgm.render.catalogue import catalogue_items, missing_libraries
    from sgm.render.degradation import Degradation
    from sgm.render.sets.folders import render_folders
    from sgm.render.sets.items import items_of_kinds, mesh_items
    from sgm.render.sets.packing import render_packed
    from sgm.render.sets.settings import OrbitSettings
    check_folder(args.out, "--out")
    variations = getattr(args, "variations", None)
    if variations:
        args.lighting = "varied"
    common = ("size", "frames", "orbit", "elevation", "lighting", "supersample", "seed")
    objects = {name: getattr(args, name) for name in ("family", "kinds")
               if args.command == "procedural"}
    objects |= {name: getattr(args, name) for name in common}
    settings = OrbitSettings(args.command, **objects, up=getattr(args, "up", None),
                             fit=getattr(args, "fit", None), variations=variations,
                             degrade=Degradation() if args.degrade else None)
    how = {"workers": args.workers, "overwrite": args.overwrite}
    if args.command == "meshes":
        items = mesh_items(args.paths, variations or 0)
    elif args.command == "catalogue":
        items = catalogue_items(args.paths, args.split, variations or 0)
        if missing := missing_libraries(args.paths, args.split):
            log.warning("objects of %s are also in %s, which were not given and are left out",
                        args.split, missing)
    else:
        items = items_of_kinds(args.family, args.kinds, args.first_seed, args.count)
    with locked(args.out, "--out"), progress_bar("object", args.quiet) as progress:
        if args.pack:
            failed = {}
            rendered = render_packed(items, args.out, settings, progress=progress, **how)
        else:
            failed = render_folders(items, args.out, settings, progress=progress, **how)
            rendered = True
    if not rendered:
        print(f"{args.out}: already holds these {len(items)} orbits")
        return 0
    if settings.degrade:
        strengths = asdict(settings.degrade).items()
        print("degraded: " + ", ".join(f"{name} {value:g}" for name, value in strengths))
    print(f"{args.out}: {len(items) - len(failed)} of {len(items)} orbits"
          + (f"; {len(failed)} failed, see {args.out / 'failed.txt'}" if failed else ""))
    return 0 if not failed else 2 if len(items) == 1 else 1


def run(argv=None) -> int:
    """Return the exit code of `main`; errors are one line."""
    return exit_code("render_orbits.py", main, argv, "interrupted; start again with the same"
                                                     " options to continue")


if __name__ == "__main__":
    sys.exit(run())
