#!/usr/bin/env python3
"""Render orbits with exact cameras: procedural toy objects or mesh files -> views folders, or one packed array.

  render_orbits.py procedural --count 2000 --out data/toys --size 64            # folders data/toys/000000 ...
  render_orbits.py procedural --count 2000 --out data/toys64 --size 64 --pack   # arrays data/toys64/*.npy
  render_orbits.py meshes models/*.glb more/ --out data/models --size 576

A views folder has 000.png ... (RGBA, straight alpha; the input view is last, at azimuth 0) and transforms.json.  A
packed set has clips.npy (N, T, H, W, 3) uint8 on white, azimuths.npy and elevations.npy (N, T) float32 degrees, and
seeds.npy (N,) int64; read clips.npy with numpy.load(..., mmap_mode="r").

What is finished is kept: start again to go on, with the same options.  Every object has its own elevation and orbit,
and with --lighting varied its own lights, drawn from --seed and its name alone, so the number of workers and the order do
not matter.  With --frames 84 train.py takes any 21 of an orbit's views, each of which can be the input view.
Exit code: 0 done, 1 some objects failed (listed in OUT/failed.txt), 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import sys
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import numpy as np
from PIL import Image
from tqdm import tqdm

from sgm.common.cli import (
    Arguments,
    check_folder,
    exit_code,
)
from sgm.common.errors import InputError, one_line, os_reason
from sgm.geometry.mesh import MeshError
from sgm.geometry.mesh_reader import SUFFIXES, load_mesh
from sgm.render.framing import normalized, viewing_distance
from sgm.render.procedural import make_object, on_white, render_clip
from sgm.render.zbuffer import SOFT, STUDIO, Lighting, render_views
from sgm.views.cameras import DISTANCE, FOV_DEG, Orbit, position
from sgm.views.transforms import write_transforms

PACK_BLOCK = 16     # objects per task when packing
OURS = re.compile(r"[0-9]+\.png|transforms\.json")     # what a folder of views holds


def orbit_of(name: str, settings: dict) -> Orbit:
    """The object's own orbit: elevation uniform in the range, the dynamic part drawn anew; from --seed and the name."""
    rng = np.random.RandomState(zlib.crc32(f"{settings['seed']}/{name}".encode()))
    elevation = round(float(rng.uniform(*settings["elevation"])), 3)
    if settings["orbit"] == "static":
        return Orbit.static(elevation, settings["frames"])
    return Orbit.dynamic(int(rng.randint(2 ** 31 - 1)), elevation, settings["frames"])


def lighting_of(name: str, settings: dict, usual: Lighting) -> Lighting:
    """The object's lights: the usual ones, or varied: soft still, but from anywhere above and of other strengths.

    The key light stands 20 to 75 degrees high at any azimuth, the fill light lower and 100 to 260 degrees further round.
    Strengths are the usual ones times 0.75 to 1.25 (key), 0.5 to 2 (fill, sky), 0.85 to 1.1 (ambient).
    """
    if settings["lighting"] == "fixed":
        return usual
    rng = np.random.RandomState(zlib.crc32(f"{settings['seed']}/{name}/light".encode()))
    azimuth, high, low = rng.uniform(0, 360), rng.uniform(20, 75), rng.uniform(0, 30)
    across = azimuth + rng.uniform(100, 260)
    key, fill, sky, ambient = rng.uniform((0.75, 0.5, 0.5, 0.85), (1.25, 2, 2, 1.1))
    return Lighting(ambient * usual.ambient, key * usual.key, tuple(position(azimuth, high, 1.0)), fill * usual.fill,
                    tuple(position(across, low, 1.0)), sky * usual.sky)


def render_folder(item: tuple[str, int | str], out: str, settings: dict) -> tuple[str, str | None]:
    """Render one object into out/name -> its name and the reason it failed, if it did."""
    name, source = item
    final, partial_folder = Path(out, name), Path(out, f".{name}.partial")
    try:
        strange = [path.name for path in final.iterdir() if not OURS.fullmatch(path.name)] if final.is_dir() else []
        if strange or final.exists() and not final.is_dir():
            return name, f"{final} is in the way ({strange[0] if strange else 'a file'}); give another --out"
        orbit, distance, lighting = orbit_of(name, settings), DISTANCE, SOFT
        if isinstance(source, int):
            mesh = make_object(source)
        else:
            mesh, lighting = normalized(load_mesh(source, settings["up"]), settings["fit"]), STUDIO
            distance = viewing_distance(mesh, orbit)
        views = render_views(mesh, orbit.poses(distance), settings["size"], FOV_DEG,
                             supersample=settings["supersample"], lighting=lighting_of(name, settings, lighting))
    except (MeshError, MemoryError) as error:
        return name, str(error) or "out of memory"
    shutil.rmtree(partial_folder, ignore_errors=True)
    try:
        partial_folder.mkdir()
        for k, view in enumerate(views):
            Image.fromarray(view).save(partial_folder / f"{k:03d}.png")
        write_transforms(partial_folder, orbit, settings["size"], distance=distance)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial_folder, final)
    except OSError as error:
        raise InputError(f"--out {final}: cannot be written: {os_reason(error)}") from None
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return name, None


def render_block(rows: list[int], folder: str, settings: dict) -> int:
    """Render rows of a packed set in place -> how many."""
    arrays = {name: np.load(Path(folder, name + ".npy"), mmap_mode="r+")
              for name in ("clips", "azimuths", "elevations", "seeds", "done")}
    for row in rows:
        seed = int(arrays["seeds"][row])
        name = f"{seed:07d}"
        orbit = orbit_of(name, settings)
        if settings["lighting"] == "fixed":
            arrays["clips"][row] = render_clip(seed, orbit, settings["size"], supersample=settings["supersample"])
        else:
            arrays["clips"][row] = on_white(render_views(
                make_object(seed), orbit.poses(DISTANCE), settings["size"], FOV_DEG, supersample=settings["supersample"],
                lighting=lighting_of(name, settings, SOFT)))
        arrays["azimuths"][row], arrays["elevations"][row] = orbit.azimuths_deg, orbit.elevations_deg
        arrays["done"][row] = True
    return len(rows)


def _begin_worker():
    """In a worker: Ctrl-C is the parent's to handle, SIGTERM ends it without a word, and it dies with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # An orphan would wait for ever, or finish its object while the next run makes the same one. Linux's PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def in_processes(task, items: list, workers: int):
    """Yield the results of task(item), in order, from `workers` processes; Ctrl-C lets running items end."""
    if workers == 1 or len(items) < 2:
        yield from map(task, items)
        return
    pool = ProcessPoolExecutor(min(workers, len(items)), initializer=_begin_worker)
    try:
        yield from pool.map(task, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def claim(folder: Path, settings: dict, overwrite: bool):
    """Make the folder and note what is rendered into it; refuse to mix two kinds in one."""
    check_folder(folder, "--out")
    note = folder / "render.json"
    if overwrite and folder.exists():
        if not note.exists() and any(folder.iterdir()):
            raise InputError(f"--overwrite: {folder} is not empty and was not made by this tool (no render.json); "
                             "give another --out")
        old = folder.with_name(f".{folder.name}.old")       # aside first: half deleted it would look finished
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        shutil.rmtree(old)
    if note.exists():
        try:
            found = dict(json.loads(note.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError):
            raise InputError(f"{note}: is damaged; give another --out, or --overwrite to start afresh") from None
        found.setdefault("lighting", "fixed")       # of sets that were rendered when there was no other
        for key in settings:
            if found.get(key) != settings[key]:
                raise InputError(f"--out {folder}: holds orbits rendered with {key} {found.get(key)}, this run has "
                                 f"{key} {settings[key]}; give another --out, or --overwrite to start afresh")
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f".render.json.{os.getpid()}")
    temporary.write_text(json.dumps(settings, indent=1))
    os.replace(temporary, note)


def render_folders(items: list[tuple[str, int | str]], args, settings: dict) -> int:
    out = args.out
    claim(out, settings, args.overwrite)
    todo = [item for item in items if not (out / item[0] / "transforms.json").exists()]
    failed = []
    results = in_processes(partial(render_folder, out=str(out), settings=settings), todo, args.workers)
    with closing(results), tqdm(total=len(items), initial=len(items) - len(todo), unit="object", smoothing=0.05) as bar:
        for name, reason in results:
            bar.update()
            if reason:
                failed.append((name, reason))
                bar.write(one_line(f"failed: {name}: {reason}"), file=sys.stderr)
    listing = out / "failed.txt"
    listing.unlink(missing_ok=True)
    if failed:
        # names of files need not be text
        listing.write_text("".join(f"{name}\t{reason}\n" for name, reason in failed), "utf-8", "backslashreplace")
    print(f"{out}: {len(items) - len(failed)} of {len(items)} orbits"
          + (f"; {len(failed)} failed, see {listing}" if failed else ""))
    return 0 if not failed else 2 if len(items) == 1 else 1


def render_packed(seeds: range, args, settings: dict) -> int:
    out = args.out
    settings = {**settings, "first_seed": seeds.start, "count": len(seeds)}
    work = out.with_name(out.name + ".partial")
    if args.overwrite and out.exists():
        claim(out, settings, True)          # refuses folders of others, empties our own
        shutil.rmtree(out)
    if (out / "clips.npy").exists():
        claim(out, settings, False)         # refuses another kind
        print(f"{out}: already holds these {len(seeds)} orbits")
        return 0
    if out.exists():
        raise InputError(f"--out {out}: exists and holds no packed set; give another --out")
    claim(work, settings, args.overwrite)
    frames, size = settings["frames"], settings["size"]
    if not (work / "done.npy").exists():
        needed, free = len(seeds) * frames * size * size * 3, shutil.disk_usage(work).free
        if needed > free:
            raise InputError(f"--out {out}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; lower "
                             "--count or --size")
        try:
            make_arrays(work, seeds, frames, size)
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written: {os_reason(error)}") from None
    try:
        todo = np.flatnonzero(~np.load(work / "done.npy")).tolist()
    except (ValueError, EOFError):
        raise InputError(f"{work / 'done.npy'}: is damaged; give --overwrite to start afresh") from None
    blocks = [todo[k:k + PACK_BLOCK] for k in range(0, len(todo), PACK_BLOCK)]
    results = in_processes(partial(render_block, folder=str(work), settings=settings), blocks, args.workers)
    with closing(results), tqdm(total=len(seeds), initial=len(seeds) - len(todo), unit="object", smoothing=0.05) as bar:
        for count in results:
            bar.update(count)
    os.replace(work, out)
    (out / "done.npy").unlink()
    print(f"{out}: {len(seeds)} orbits, clips.npy {os.path.getsize(out / 'clips.npy') / 1e6:.0f} MB")
    return 0


def make_arrays(folder: Path, seeds: range, frames: int, size: int):
    """Write the arrays of a packed set, to be filled; done.npy, the last, says that all are there."""
    for name, shape, kind in (("clips", (frames, size, size, 3), np.uint8), ("azimuths", (frames,), np.float32),
                              ("elevations", (frames,), np.float32), ("seeds", (), np.int64), ("done", (), bool)):
        new = folder / f"{name}.npy.new"
        array = np.lib.format.open_memmap(new, "w+", kind, (len(seeds), *shape))
        if name == "seeds":
            array[:] = seeds
        array.flush()
        with open(new, "r+b") as file:      # else a disk that fills up later would kill the process
            os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
        os.replace(new, folder / f"{name}.npy")


def mesh_files(paths: list[str]) -> list[tuple[str, str]]:
    """Files and folders (searched with their sub-folders) -> sorted (name, path).

    The name is the file's without its suffix; files that share one get their folder's before it, or the whole path."""
    files = set()
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give mesh files ({', '.join(SUFFIXES)}) or folders")
        files.update(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else files.add(path)
    if not files:
        raise InputError(f"{paths[0]}: no mesh files in it; expected {', '.join(SUFFIXES)}")
    files = sorted(files)
    names = [p.stem for p in files]
    for name_of in (lambda p: f"{p.resolve().parent.name}-{p.stem}", lambda p: "-".join(p.resolve().parts[1:])):
        shared = {name for name, count in Counter(names).items() if count > 1}
        names = [name_of(p) if name in shared else name for name, p in zip(names, files)]
    return [(name, str(path)) for name, path in zip(names, files)]


def arguments(argv=None):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", required=True, help="folder to fill")
    common.add_argument("--size", type=int, default=576, help="pixels per side (default 576)")
    common.add_argument("--frames", type=int, default=21, help="views per orbit: 21, or 84 to train on any 21 of them")
    common.add_argument("--orbit", choices=("static", "dynamic"), default="static",
                        help="constant elevation, or the random orbits of the SV3D paper (default static)")
    common.add_argument("--elevation", type=float, nargs=2, default=(-5.0, 30.0), metavar=("MIN", "MAX"),
                        help="range of the input view's elevation in degrees (default -5 30, as in the paper)")
    common.add_argument("--lighting", choices=("fixed", "varied"), default="fixed",
                        help="the same lights for all objects, or soft ones of its own for each (default fixed)")
    common.add_argument("--supersample", type=int, default=2, help="samples per pixel and side (default 2)")
    common.add_argument("--seed", type=int, default=0, help="draws elevations and orbits (default 0)")
    common.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: all CPUs)")
    common.add_argument("--overwrite", action="store_true", help="delete what an earlier run left in --out")
    procedural = commands.add_parser("procedural", parents=[common], help="toy objects by seed")
    procedural.add_argument("--count", type=int, required=True, help="number of objects")
    procedural.add_argument("--first-seed", type=int, default=0,
                            help="seed of the first object (0-99999 are for training, 1000000-1000015 held back)")
    procedural.add_argument("--pack", action="store_true", help="one set of .npy arrays instead of folders of PNGs")
    meshes = commands.add_parser("meshes", parents=[common], help="mesh files")
    meshes.add_argument("paths", nargs="+", help="mesh files, or folders searched for them")
    meshes.add_argument("--up", choices=("auto", "y", "z"), default="auto",
                        help="the files' up axis; auto: y for glb and gltf, z for others (default auto)")
    meshes.add_argument("--fit", choices=("box", "sphere"), default="box",
                        help="scale the longest side of the bounding box to 1, or the radius to 0.5 (default box)")
    args = parser.parse_args(argv)
    args.out = Path(args.out).resolve()
    for name, low, high in (("size", 8, 4096), ("frames", 2, 1000), ("supersample", 1, 8), ("workers", 1, 1024),
                            ("count", 1, 10 ** 8), ("first_seed", 0, 2 ** 32 - 1), ("seed", 0, 2 ** 32 - 1)):
        value = getattr(args, name, low)
        if not low <= value <= high:
            raise InputError(f"--{name.replace('_', '-')} is {value}; expected {low} to {high}")
    if not -89 <= args.elevation[0] <= args.elevation[1] <= 89:
        raise InputError(f"--elevation is {args.elevation[0]:g} {args.elevation[1]:g}; expected MIN <= MAX within "
                         "-89 to 89 degrees")
    if args.command == "procedural" and args.first_seed + args.count > 2 ** 32:
        raise InputError(f"--first-seed {args.first_seed} --count {args.count}: seeds must stay under 2^32")
    return args


def main(argv=None) -> int:
    args = arguments(argv)
    settings = {"kind": args.command, "size": args.size, "frames": args.frames, "orbit": args.orbit,
                "elevation": list(args.elevation), "lighting": args.lighting, "supersample": args.supersample,
                "seed": args.seed}
    try:
        if args.command == "meshes":
            return render_folders(mesh_files(args.paths), args, {**settings, "up": args.up, "fit": args.fit})
        seeds = range(args.first_seed, args.first_seed + args.count)
        if args.pack:
            return render_packed(seeds, args, settings)
        return render_folders([(f"{seed:07d}", seed) for seed in seeds], args, settings)
    except BrokenProcessPool:
        print("render_orbits.py: a worker was killed, most likely for want of memory; start again with --workers 1",
              file=sys.stderr)
        return 1


def run(argv=None) -> int:
    """`main` with errors as one line and an exit code."""
    return exit_code("render_orbits.py", main, argv, "interrupted; start again with the same options to go on")


if __name__ == "__main__":
    sys.exit(run())
