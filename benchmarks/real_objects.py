#!/usr/bin/env python3
"""Measure meshes of rendered views of real objects, beside the visual hull of the same views.

  python benchmarks/real_objects.py furniture/*.sh3f --out runs/real
  python benchmarks/real_objects.py furniture/*.sh3f --out runs/real --objects Scopia-063

The objects are twelve of the catalogue, of different kinds (docs/training.md says how to get its
libraries; nothing here is learned from them). Each is seen from 21 views of a static orbit at 10
degrees. Printed are the Chamfer distance to the surface that can be seen from outside, of the mesh
and of the hull at 128 cells, the F-score at .01, foreground PSNR and silhouette IoU from 36 cameras
on rings at 0, 20 and 40 degrees (Orbit.rings), whether the mesh is watertight, and the seconds;
then which share of that surface the 21 views see, and the mean distance from there to the mesh, and
from what they do not see. What is finished in --out is kept, if it has the same settings.

Exit code: 0 done, 1 some failed, 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from sgm.common.cli import Arguments, check_folder, exit_code  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.locks import locked  # noqa: E402
from sgm.config.reconstruction import load_mesh_spec  # noqa: E402
from sgm.geometry import metrics as mesh_metrics  # noqa: E402
from sgm.geometry.mesh import Mesh  # noqa: E402
from sgm.geometry.mesh_reader import load_mesh  # noqa: E402
from sgm.render.catalogue import catalogue_items  # noqa: E402
from sgm.render.sets.folders import render_folders  # noqa: E402
from sgm.render.sets.settings import OrbitSettings  # noqa: E402
from sgm.render.visible import OuterSurface, read_depths  # noqa: E402
from sgm.render.zbuffer import render_depths  # noqa: E402
from sgm.views.cameras import FOV_DEG  # noqa: E402
from sgm.views.transforms import read_transforms  # noqa: E402

# chair with thin legs, lamp with a shade, plant, creamer, figure, car, sofa, table, cat, scooter,
# bookcase, drill: chosen before the first run
OBJECTS = ("BlendSwap-CC-BY-128", "Scopia-063", "BlendSwap-CC-0-113", "Scopia-111",
           "Reallusion-009", "KatorLegaz-060", "Scopia-075", "Scopia-096", "BlendSwap-CC-BY-100",
           "KatorLegaz-066", "Scopia-027", "Scopia-263")
SPLITS, FRONT = ("train", "val", "test"), "-front"
SIZE, ELEVATION, HULL = 384, 10.0, 128
POINTS = 20000
HEAD = "{:22s} {:>8s} {:>8s} {:>6s} {:>6s} {:>6s} {:>6s} {:>5s} {:>5s} {:>6s} {:>8s} {:>10s}"
ROW = ("{:22s} {:8.4f} {:8.4f} {:6.2f} {:6.3f} {:6.2f} {:6.3f} {:5.0f} {:5.2f} {:6.4f} {:8.4f}"
       " {:>10s}")


def chosen(libraries, names):
    """Return the (name, object) of objects as they are, facing the input view. Raises InputError.
    """
    items = {}
    for split in SPLITS:
        for name, item in catalogue_items(libraries, split):
            if split == "train" or name.endswith(FRONT):
                items[name.removesuffix(FRONT)] = item
    unknown = sorted(set(names) - set(items))
    if unknown:
        raise InputError(f"--objects: found no {', '.join(unknown)} in the libraries, expected"
                         " names as Scopia-063")
    return [(name, items[name]) for name in names]


def hull_of(folder, spec):
    """Return vertices and faces of the visual hull of a views folder, in the views' own world."""
    from sgm.reconstruct import stages
    views, _, _ = stages.read(folder, spec)
    hull = stages.carve(views, replace(spec, hull=replace(spec.hull, resolution=HULL)))
    surface = stages.surface(hull.closed)
    placed = surface.vertices / views.scale + views.center
    return placed @ np.asarray(views.upright), surface.faces


def apart(folder, made, true, outer):
    """Return the share of a true surface that the views of a folder see, and distances to a mesh.

    The distances are means over the points that they see, and over those that they do not.
    """
    points, _ = mesh_metrics.sample_seen(true.vertices, true.faces, POINTS, 0, outer.sees)
    seen = np.zeros(len(points), bool)
    poses = np.array(read_transforms(folder).poses)
    for pose, depth in zip(poses, render_depths(true, poses, outer.depths.shape[1], FOV_DEG)):
        at, there = read_depths(pose, depth, points)
        seen |= at <= there + outer.tolerance
    near = mesh_metrics.sample(made.vertices, made.faces, POINTS, 0)[0]
    distance = cKDTree(near).query(points)[0]
    return {"seen": seen.mean(), "distance_seen": distance[seen].mean(),
            "distance_unseen": distance[~seen].mean() if not seen.all() else 0.0}


def is_made(output, spec):
    """Return whether `output` holds a mesh of these settings that was made to its end."""
    try:
        report = dict(json.loads((output / "report.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    wanted = json.loads(json.dumps(asdict(spec)))       # with lists for tuples, as they are read
    return (report.get("interrupted") is False and report.get("settings") == wanted
            and (output / "mesh.glb").exists())


def measured(folder, output, rings, spec):
    """Return the figures of a mesh as a dict."""
    from sgm.reconstruct import report
    from sgm.reconstruct.views_reader import read_views
    made = load_mesh(output / "mesh.obj")
    true = load_mesh(folder / "truth" / "mesh.ply")
    outer = OuterSurface(true)
    shapes = {"mesh": (made.vertices, made.faces), "hull": hull_of(folder, spec)}
    found = {kind: mesh_metrics.compare(shape, (true.vertices, true.faces),
                                        outer=[OuterSurface(Mesh(*shape)), outer])
             for kind, shape in shapes.items()}
    seen = report.view_metrics(made, read_views(rings))
    stages = json.loads((output / "report.json").read_text())["stages"]
    return {"chamfer": found["mesh"]["chamfer_l1"], "hull": found["hull"]["chamfer_l1"],
            "fscore": found["mesh"]["fscore_0.01"], "psnr": seen["psnr_fg"], "iou": seen["iou"],
            "watertight": found["mesh"]["pred_watertight"], **apart(folder, made, true, outer),
            "seconds": sum(stage["seconds"] for stage in stages.values())}


def compare(args):
    """Render, make meshes and measure what is missing, print the table; return the exit code."""
    from sgm.reconstruct.pipeline import Reconstruction
    spec = load_mesh_spec(args.config, args.set)
    items = chosen(args.libraries, args.objects)
    common = {"kind": "catalogue", "size": SIZE, "elevation": (ELEVATION,) * 2, "fit": "box"}
    failed = render_folders(items, args.out / "views", OrbitSettings(**common), progress=None)
    failed |= render_folders(items, args.out / "rings", OrbitSettings(
        **common, orbit="rings", frames=36), progress=None)
    setting = "_".join([Path(args.config).stem, *args.set]).replace("/", "-")
    rows = []
    print(HEAD.format("object", "Chamfer", "hull's", "ratio", "F .01", "PSNR", "IoU", "s",
                      "seen", "from", "unseen", "watertight"))
    for name, _ in items:
        output = args.out / setting / name
        try:
            if name in failed:
                raise InputError(failed[name])
            if not is_made(output, spec):
                run = Reconstruction(args.out / "views" / name, spec, output, progress=False)
                run.run()
                if run.interrupted:             # a mesh of too few steps
                    raise KeyboardInterrupt
            row = measured(args.out / "views" / name, output, args.out / "rings" / name, spec)
        except InputError as error:
            failed[name] = str(error)
            print(f"{name:22s} {error}", flush=True)
            continue
        rows.append([row["chamfer"], row["hull"], row["chamfer"] / row["hull"], row["fscore"],
                     row["psnr"], row["iou"], row["seconds"], row["seen"], row["distance_seen"],
                     row["distance_unseen"], row["watertight"]])
        print(ROW.format(name, *rows[-1][:-1], "yes" if row["watertight"] else "no"), flush=True)
    if rows:
        *medians, _ = np.median(rows, 0)
        print(ROW.format("median", *medians, f"{sum(row[-1] for row in rows)} of {len(rows)}"))
    return 1 if failed else 0


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("libraries", nargs="+", help="the catalogue's libraries (.sh3f)")
    add("--out", type=Path, required=True, help="folder to fill")
    add("--objects", nargs="+", default=OBJECTS, metavar="NAME", help="others than the twelve")
    add("--config", default="default", help="of views_to_mesh.py (default: default)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="one of its settings")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    check_folder(args.out, "--out")
    with locked(args.out, "--out"):
        return compare(args)


if __name__ == "__main__":
    sys.exit(exit_code("real_objects.py", main))
