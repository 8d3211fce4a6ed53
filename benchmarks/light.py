#!/usr/bin/env python3
"""Measure how much of an object's own color the light model finds.

  python benchmarks/light.py 1000001 1000002 models/cup.glb --out runs/light
  python benchmarks/light.py duck.glb --up z --out runs/light --lighting varied

Each object, a mesh file or the seed of a procedural one, is rendered as a static orbit of 21 views,
made into a mesh, and drawn from the 20 cameras of a dynamic orbit that the mesh has not seen.
Printed are the error of the colors without and with the light model, and the PSNR of the lit mesh
on the object, without and with it, in dB. The error is the root mean square over pixels that are
all object in the mesh and in the truth, in linear RGB, against the true albedo (rendered without
light), after the one factor that makes it least.

--lighting fixed: the lights of render_orbits.py; varied: lights of each object's own; camera: the
main light stands at the camera, which no light that is fixed in the world can explain. Surfaces in
--out are kept and used again, textures are made anew.

Exit code: 0 done, 1 an object could not be made into a mesh, 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402

from sgm.common.cli import Arguments, check_folder, exit_code, int_range  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.locks import locked  # noqa: E402
from sgm.config.reconstruction import load_mesh_spec  # noqa: E402
from sgm.geometry.mesh import linear_from_srgb  # noqa: E402
from sgm.geometry.mesh_reader import load_mesh  # noqa: E402
from sgm.render.datasets import (  # noqa: E402
    OrbitSettings,
    lighting_of,
    mesh_items,
    procedural_items,
    write_pictures,
)
from sgm.render.framing import normalized, viewing_distance  # noqa: E402
from sgm.render.procedural import make_object  # noqa: E402
from sgm.render.zbuffer import SOFT, STUDIO, render_views  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import FOV_DEG, Orbit  # noqa: E402
from sgm.views.transforms import write_transforms  # noqa: E402

ELEVATION, SEEN, HELD_OUT = 10.0, 21, 20


def drawn(mesh, poses, size, light, at_camera):
    """Return renders (T, size, size, 4) uint8; at_camera: the key light stands at each camera."""
    if not at_camera:
        return render_views(mesh, poses, size, FOV_DEG, lighting=light)
    return np.concatenate([
        render_views(mesh, pose[None], size, FOV_DEG,
                     lighting=replace(light, key_direction=tuple(pose[:3, 3]), fill=0.0))
        for pose in poses])


def albedo_error(found, true):
    """Return the root mean square error of renders (T, H, W, 4) uint8, up to one factor."""
    inside = (found[..., 3] == 255) & (true[..., 3] == 255)
    x, y = (linear_from_srgb(picture[inside][:, :3] / np.float32(255)).astype(np.float64)
            for picture in (found, true))
    return float(np.sqrt(np.square((x * y).sum() / (x * x).sum() * x - y).mean()))


def measure(name, source, args):
    """Return the errors without and with light, and the PSNR of both."""
    from sgm.reconstruct import report
    from sgm.reconstruct.pipeline import Reconstruction
    from sgm.reconstruct.stage_files import STAGES
    if isinstance(source, int):
        mesh, light = make_object(source), SOFT
    else:
        mesh, light = normalized(load_mesh(source, args.up)), STUDIO
    light = lighting_of(name, OrbitSettings(
        lighting="varied" if args.lighting == "varied" else "fixed"), light)
    orbit, held_out = Orbit.static(ELEVATION, SEEN), Orbit.dynamic(1, ELEVATION, HELD_OUT + 1)
    distance = max(viewing_distance(mesh, each) for each in (orbit, held_out))
    at_camera = args.lighting == "camera"
    views, output = args.out / "views" / name, args.out / Path(args.config).stem / name
    if not views.exists():
        with atomic(views) as folder:
            write_pictures(folder, drawn(mesh, orbit.poses(distance), args.size, light, at_camera))
            write_transforms(folder, orbit, args.size, distance=distance)
    poses = held_out.poses(distance)[:HELD_OUT]     # the last is the input view
    true = render_views(mesh, poses, args.size, FOV_DEG, lighting=report.UNLIT)
    lit = drawn(mesh, poses, args.size, light, at_camera)
    errors, psnrs = [], []
    for use in ("false", "true"):
        stages = ("texture",) if (output / "work" / "dmtet.npz").exists() else STAGES
        spec = load_mesh_spec(args.config, [*args.set, f"light.use={use}"])
        made = Reconstruction(views, spec, output, stages, progress=False).run()
        shown = render_views(made.drawable(), poses, args.size, FOV_DEG, lighting=report.UNLIT)
        psnrs.append(metrics.mean_metrics(
            [metrics.compare(*pair) for pair in zip(shown, lit)])["psnr_fg"])
        if made.albedo is not None:
            shown = render_views(replace(made, texture=made.albedo).drawable(), poses, args.size,
                                 FOV_DEG, lighting=report.UNLIT)
        errors.append(albedo_error(shown, true))
    return errors, psnrs


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("objects", nargs="+", help="mesh files, or seeds of procedural objects")
    add("--out", type=Path, required=True, help="folder to fill")
    add("--up", choices=("auto", "y", "z"), default="auto", help="the files' up axis")
    add("--size", type=int_range(64, 4096), default=384, help="pixels per side (default 384)")
    add("--lighting", choices=("fixed", "varied", "camera"), default="fixed",
        help="of the views; give each kind an --out of its own (default fixed)")
    add("--config", default="fast", help="of views_to_mesh.py (default fast)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="one of its settings")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    check_folder(args.out, "--out")
    seeds = [int(name) for name in args.objects if name.isdigit()]
    files = [name for name in args.objects if not name.isdigit()]
    items = [*procedural_items(seeds), *(mesh_items(files) if files else [])]
    print(f"{'object':16s} {'albedo error':>15s} {'less':>5s} {'PSNR':>12s}")
    gains, failed = [], False
    with locked(args.out, "--out"):
        for name, source in items:
            try:
                (before, after), psnrs = measure(name, source, args)
            except InputError as error:
                failed = True
                print(f"{name:16s} {error}")
                continue
            gains.append(1 - after / before)
            print(f"{name:16s} {before:7.4f} {after:7.4f} {gains[-1]:5.0%} {psnrs[0]:6.2f}"
                  f" {psnrs[1]:5.2f}", flush=True)
    if gains:
        print(f"less error: {np.median(gains):.0%} in the median, at least {min(gains):.0%}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_code("light.py", main))
