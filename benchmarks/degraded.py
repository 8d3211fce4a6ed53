#!/usr/bin/env python3
"""Measure how far views disagree, and what their faults cost the mesh.

  python benchmarks/degraded.py agreement outputs/cup frames/
  python benchmarks/degraded.py meshes models/cup.glb 1000003 --out runs/degraded
  python benchmarks/degraded.py meshes duck.glb --up z --out runs/degraded --config default

agreement: for each folder of views, with a transforms.json or without (then they are an orbit at a
constant elevation): the elevation, or the correction of the written one, at which the hull covers
most of the masks, that coverage, and the color residual there (the mean over the views of the
median and of the 90th percentile of their pixels, see sgm/reconstruct/hull/agreement.py).

meshes: each object, a mesh file or the seed of a procedural one, is rendered clean and with the
faults of `render_orbits.py --degrade`, and made into a mesh three times: of the clean views, of the
degraded ones, and of these at the elevation that their outlines tell. Printed are the Chamfer
distance, the share of the surface whose normal is off by more than 25 degrees, and foreground PSNR
and silhouette IoU from 8 cameras 15 degrees higher, which no mesh has seen. --set leaves a cure of
views that disagree out: disagreement.cure=never (all), .exposure=false, .grid=0 (appearance of
single views), .blur=0. What is finished in --out is kept, by configuration and settings: give
another one after a change of the code.

Exit code: 0 done, 1 an object could not be rendered or made into a mesh, 2 wrong input, 130
interrupted.
"""
from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from sgm.common.cli import (  # noqa: E402
    Arguments,
    check_folder,
    exit_code,
    float_range,
    int_range,
)
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.locks import locked  # noqa: E402
from sgm.config.reconstruction import load_mesh_spec  # noqa: E402
from sgm.geometry import metrics as mesh_metrics  # noqa: E402
from sgm.geometry.mesh_reader import load_mesh  # noqa: E402
from sgm.reconstruct.hull.agreement import color_residual, outline_coverage  # noqa: E402
from sgm.reconstruct.posed_views import PosedViews  # noqa: E402
from sgm.render.degradation import Degradation  # noqa: E402
from sgm.render.sets.claims import TRUTH  # noqa: E402
from sgm.render.sets.folders import render_folders  # noqa: E402
from sgm.render.sets.items import mesh_items, procedural_items  # noqa: E402
from sgm.render.sets.settings import OrbitSettings  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import DISTANCE, Orbit, focal_length  # noqa: E402
from sgm.views.images import load_image  # noqa: E402
from sgm.views.matting import alpha_from_white  # noqa: E402
from sgm.views.transforms import read_transforms  # noqa: E402

COLORS, OUTLINES = 192, 96          # pixels per side for the two measures
COARSE, FINE = 5.0, 2.5             # degrees: steps of the search for the elevation
REACH = 10.0                        # how far from a written elevation it goes
UNKNOWN = (-10.0, 40.0)             # and its range where none is written
HIGHER, HELD_OUT = 15.0, 8          # the cameras that no mesh has seen: degrees, number
OFF = 25.0                          # degrees from which a normal counts as wrong


# --- agreement ------------------------------------------------------------------------------------

def read_pictures(folder):
    """Return 000.png ... as (T, H, W, 4) float32 in [0, 1], premultiplied; white is cut out."""
    files = sorted(path for path in Path(folder).glob("*.png") if path.stem.isdigit())
    if not files:
        raise InputError(f"{folder}: found no 000.png, ..., expected the views of an orbit")
    pictures = []
    for file in files:
        rgba = np.asarray(load_image(file))
        if rgba[..., 3].min() > 127:
            rgba = alpha_from_white(np.ascontiguousarray(rgba[..., :3]))
        rgba = rgba.astype(np.float32) / 255
        rgba[..., :3] *= rgba[..., 3:]
        pictures.append(cv2.resize(rgba, (COLORS, COLORS), interpolation=cv2.INTER_AREA))
    return np.stack(pictures)


def at_elevation(pictures, orbit, shift, distance):
    """Return PosedViews of pictures from the cameras of an orbit, `shift` degrees higher."""
    moved = Orbit(orbit.azimuths_deg, np.clip(orbit.elevations_deg + shift, -89, 89), orbit.sign)
    size = pictures.shape[1]
    focal = focal_length(size)
    return PosedViews(np.ascontiguousarray(pictures[..., :3]),
                      np.ascontiguousarray(pictures[..., 3]), moved.poses(distance), focal, focal,
                      size / 2, size / 2)


def agreement(folder):
    """Return the best shift of the elevation in degrees, the coverage and residuals there.

    The residuals are the means over the views of their median and 90th percentile.
    """
    folder = Path(folder)
    pictures = read_pictures(folder)
    if (folder / "transforms.json").exists():
        cameras = read_transforms(folder)
        orbit = Orbit.from_lists(cameras.azimuths_deg, cameras.elevations_deg)
        distance, shifts = cameras.distance, np.arange(-REACH, REACH + 1, COARSE)
    else:
        orbit, distance = Orbit.static(0, len(pictures)), DISTANCE
        shifts = np.arange(UNKNOWN[0], UNKNOWN[1] + 1, COARSE)
    small = np.stack([cv2.resize(picture, (OUTLINES, OUTLINES), interpolation=cv2.INTER_AREA)
                      for picture in pictures])

    def covered(shift):
        return outline_coverage(at_elevation(small, orbit, shift, distance))

    found = {shift: covered(shift) for shift in shifts}
    best = max(found, key=found.get)
    found |= {shift: covered(shift) for shift in (best - FINE, best + FINE)}
    best = max(found, key=found.get)
    residual = color_residual(at_elevation(pictures, orbit, best, distance))
    return best, found[best], *np.nanmean(residual, axis=0)


# --- meshes ---------------------------------------------------------------------------------------

def wrong_normals(prediction, truth, count=20_000, dense=200_000):
    """Return the share of a mesh's surface whose normal is off by more than OFF degrees.

    Meshes are vertices (N, 3), faces (M, 3). A point's normal is compared with that of the nearest
    point of the true surface, without regard to its sign.
    """
    points, normals = mesh_metrics.sample(*mesh_metrics.prepared(*prediction), count, 0)
    true, true_normals = mesh_metrics.sample(*mesh_metrics.prepared(*truth), dense, 1)
    nearest = cKDTree(true).query(points)[1]
    cosine = np.abs((normals * true_normals[nearest]).sum(1))
    return float((cosine < np.cos(np.radians(OFF))).mean())


def measure(mesh_file, truth_file, held_out):
    """Return Chamfer distance, share of wrong normals, foreground PSNR and IoU."""
    from sgm.reconstruct import report
    from sgm.reconstruct.views_reader import read_views
    mesh, true = load_mesh(mesh_file), load_mesh(truth_file, shape_only=True)
    parts = (mesh.vertices, mesh.faces), (true.vertices, true.faces)
    views = read_views(held_out)
    seen = metrics.mean_metrics([metrics.compare(*pair) for pair in zip(
        report.render_like(mesh, views), report.pictures(views))])
    return (mesh_metrics.compare(*parts)["chamfer_l1"], wrong_normals(*parts), seen["psnr_fg"],
            seen["iou"])


def meshes(args):
    """Render, make meshes and measure them; return the exit code."""
    from sgm.reconstruct.pipeline import Reconstruction
    spec = load_mesh_spec(args.config, ["light.bake=true", *args.set])    # mesh.glb as the views
    setting = "_".join([Path(args.config).stem, *args.set]).replace("/", "-")
    items, files = [], []
    for name in args.objects:
        if name.isdigit():
            items += procedural_items([int(name)])
        else:
            files.append(name)
    items += mesh_items(files) if files else []
    common = {"kind": "meshes", "size": args.size, "up": args.up, "fit": "box"}
    here, higher = (args.elevation,) * 2, (args.elevation + HIGHER,) * 2
    failed = render_folders(items, args.out / "views", OrbitSettings(
        elevation=here, degrade=Degradation(), **common), progress=None)
    failed |= render_folders(items, args.out / "held_out", OrbitSettings(
        elevation=higher, frames=HELD_OUT, **common), progress=None)
    print(f"{'object':16s} {'views':14s} {'Chamfer':>8s} {'normals':>8s} {'PSNR':>6s} {'IoU':>6s}")
    for name, _ in items:
        if name in failed:
            print(f"{name:16s} {failed[name]}")
            continue
        degraded = args.out / "views" / name
        for kind, views, elevation in (("clean", degraded / TRUTH, None),
                                       ("degraded", degraded, None),
                                       ("elevation told", degraded, "auto")):
            output = args.out / setting / name / kind.split()[0]
            try:
                if not (output / "mesh.glb").exists():
                    run = Reconstruction(views, spec, output, progress=False, elevation=elevation)
                    run.run()
                    if run.interrupted:         # a mesh of too few steps
                        shutil.rmtree(output)
                        raise KeyboardInterrupt
                chamfer, normals, psnr, iou = measure(
                    output / "mesh.glb", degraded / TRUTH / "mesh.ply",
                    args.out / "held_out" / name)
            except InputError as error:
                failed[name] = str(error)
                print(f"{name:16s} {kind:14s} {error}", flush=True)
                continue
            print(f"{name:16s} {kind:14s} {chamfer:8.4f} {normals:8.1%} {psnr:6.2f} {iou:6.3f}",
                  flush=True)
    return 1 if failed else 0


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("agreement", help="coverage and color residual of folders of views")
    first.add_argument("folders", nargs="+", type=Path)
    add = commands.add_parser("meshes", help="meshes of clean and of degraded views").add_argument
    add("objects", nargs="+", help="mesh files, or seeds of procedural objects")
    add("--out", type=Path, required=True, help="folder to fill")
    add("--up", choices=("auto", "y", "z"), default="auto", help="the files' up axis")
    add("--size", type=int_range(64, 4096), default=384, help="pixels per side (default 384)")
    add("--elevation", type=float_range(-60, 60), default=10.0,
        help="true elevation in degrees (default 10)")
    add("--config", default="fast", help="of views_to_mesh.py (default fast)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="one of its settings")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.command == "meshes":
        check_folder(args.out, "--out")
        with locked(args.out, "--out"):
            return meshes(args)
    print(f"{'views':24s} {'elevation':>9s} {'coverage':>8s} {'median':>7s} {'q90':>7s}")
    for folder in args.folders:
        shift, covered, median, high = agreement(folder)
        print(f"{str(folder)[-24:]:24s} {shift:+9.1f} {covered:8.3f} {median:7.4f} {high:7.4f}",
              flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("degraded.py", main))
