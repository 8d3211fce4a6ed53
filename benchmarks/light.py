#!/usr/bin/env python3
"""Measure how much of an object's own color the light model finds.

  python benchmarks/light.py 1000001 1000002 models/cup.glb --out runs/light
  python benchmarks/light.py duck.glb --up z --out runs/light --lighting varied

Each object, a mesh file or the seed of a procedural one, is rendered as a static orbit of 21 views,
made into a mesh, and drawn from 20 cameras that it has not seen, between those of the orbit; then
from 20 that stand 15 degrees higher.
Printed are, of both, errors of the albedo, in linear RGB against renders without light, over pixels
that are all object in the mesh and in the truth: mean absolute and root mean square, after the one
factor that makes the latter least. Of each three: without the light model, with it, and with the
true light in its place, the best that a light model can do. Then PSNR on the object of the lit
mesh, without and with the model, in dB.

--lighting fixed: the lights of render_orbits.py; varied: lights of each object's own; camera: the
main light stands at the camera, which no light that is fixed in the world can explain. A surface
in --out is used again, or gone on with, the texture is made anew.

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
from scipy.optimize import nnls  # noqa: E402

from sgm.common.cli import Arguments, check_folder, exit_code, int_range  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.locks import locked  # noqa: E402
from sgm.config.reconstruction import load_mesh_spec  # noqa: E402
from sgm.geometry.mesh import linear_from_srgb  # noqa: E402
from sgm.geometry.mesh_reader import load_mesh  # noqa: E402
from sgm.render.families.named import ProceduralObject  # noqa: E402
from sgm.render.framing import normalized, viewing_distance  # noqa: E402
from sgm.render.sets.folders import write_pictures  # noqa: E402
from sgm.render.sets.items import mesh_items, procedural_items  # noqa: E402
from sgm.render.sets.objects import lighting_of  # noqa: E402
from sgm.render.sets.settings import OrbitSettings  # noqa: E402
from sgm.render.zbuffer import SOFT, STUDIO, render_views  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import FOV_DEG, Orbit  # noqa: E402
from sgm.views.transforms import write_transforms  # noqa: E402

ELEVATION, SEEN = 10.0, 21
HIGHER, HELD_OUT = (0.0, 15.0), 20          # lower ones would see what no view has


def drawn(mesh, poses, size, light, at_camera):
    """Return renders (T, size, size, 4) uint8; at_camera: the key light stands at each camera."""
    if not at_camera:
        return render_views(mesh, poses, size, FOV_DEG, lighting=light)
    return np.concatenate([
        render_views(mesh, pose[None], size, FOV_DEG,
                     lighting=replace(light, key_direction=tuple(pose[:3, 3]), fill=0.0))
        for pose in poses])


def true_light(lighting):
    """Return the `light.Light` that is nearest to that of the renders."""
    from sgm.reconstruct import light
    normals, even = light.fibonacci_sphere(1000), light.even_light()
    ambient, sky, key, *a, fill, b, c, d = lighting.packed()
    shade = ambient + sky * (0.5 + 0.5 * normals[:, 2])
    shade += key * np.maximum(normals @ a, 0) + fill * np.maximum(normals @ (b, c, d), 0)
    each = light.irradiance(even.axes, even.sharpness, normals)
    return even._replace(amplitude=nnls(each, shade)[0])


def albedo_errors(found, true):
    """Return the mean absolute and the root mean square error of renders, up to one factor.

    Renders are (T, H, W, 4) uint8.
    """
    inside = (found[..., 3] == 255) & (true[..., 3] == 255)
    x, y = (linear_from_srgb(picture[inside][:, :3] / np.float32(255)).astype(np.float64)
            for picture in (found, true))
    off = (x * y).sum() / (x * x).sum() * x - y
    return np.array([np.abs(off).mean(), np.sqrt(np.square(off).mean())])


def measure(name, source, args):
    """Return what is printed of an object, for each of HIGHER.

    `albedo_errors` (3, 2) without light, with it, with the true one, and two PSNR.
    """
    from sgm.reconstruct import light as model
    from sgm.reconstruct import report
    from sgm.reconstruct import stages as steps
    from sgm.reconstruct.pipeline import Reconstruction
    from sgm.reconstruct.texture import baking
    if isinstance(source, ProceduralObject):
        mesh, light = source.load(), SOFT
    else:
        mesh, light = normalized(load_mesh(source, args.up)), STUDIO
    light = lighting_of(name, OrbitSettings(
        lighting="varied" if args.lighting == "varied" else "fixed"), light)
    orbit = Orbit.static(ELEVATION, SEEN)
    distance = viewing_distance(mesh, orbit)
    at_camera = args.lighting == "camera"
    views, output = args.out / "views" / name, args.out / Path(args.config).stem / name
    if not views.exists():
        views.parent.mkdir(parents=True, exist_ok=True)
        with atomic(views) as folder:
            write_pictures(folder, drawn(mesh, orbit.poses(distance), args.size, light, at_camera))
            write_transforms(folder, orbit, args.size, distance=distance)
    spec = load_mesh_spec(args.config, args.set)
    run = Reconstruction(views, spec, output, resume=True, progress=False)
    made = run.run()
    if run.interrupted:             # a mesh of too few steps
        raise KeyboardInterrupt
    # The same surface with its texture without the light model, and with the true light.
    box, _, _ = steps.read(str(views), spec)
    vertices = ((made.vertices - box.center) * box.scale).astype(np.float32)
    even = model.removed(box, vertices, made.faces, true_light(light))
    plain, best = (baking.bake(vertices, made.faces, each, spec.texture).placed(
        box.scale, box.center).drawable() for each in (box, even))
    albedo, made = replace(made, texture=made.albedo).drawable(), made.drawable()
    found = []
    for higher in HIGHER:
        held_out = Orbit.static(ELEVATION + higher, HELD_OUT)
        poses = held_out.poses(viewing_distance(mesh, held_out))
        true, without, *others, shown = (
            render_views(each, poses, args.size, FOV_DEG, lighting=report.UNLIT)
            for each in (mesh, plain, albedo, best, made))
        lit = drawn(mesh, poses, args.size, light, at_camera)
        errors = [albedo_errors(each, true) for each in (without, *others)]
        found.append((np.array(errors), [
            metrics.mean_metrics([metrics.compare(*pair) for pair in zip(each, lit)])["psnr_fg"]
            for each in (without, shown)]))
    return found


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
    print(f"{'object':12s} above {'mean absolute':>20s}  less {'root mean square':>20s}  less"
          f" {'PSNR':>12s}")
    gains, failed = {higher: [] for higher in HIGHER}, False
    with locked(args.out, "--out"):
        for name, source in items:
            try:
                found = measure(name, source, args)
            except InputError as error:
                failed = True
                print(f"{name:12s} {error}")
                continue
            for (errors, psnrs), (higher, each) in zip(found, gains.items()):
                each.append(1 - errors[1] / errors[0])
                columns = [" ".join(f"{value:6.4f}" for value in kind) + f" {gain:5.0%}"
                           for kind, gain in zip(errors.T, each[-1])]
                columns += [f"{psnrs[0]:6.2f} {psnrs[1]:5.2f}"]
                print(f"{name:12s} {higher:5.0f}", *columns, flush=True)
    for higher, each in gains.items():
        if each:
            print(f"{higher:.0f} above, less in the median, and at least:", *(
                f"{word}: {np.median(kind):.0%}, {min(kind):.0%}"
                for word, kind in zip(("mean absolute", "root mean square"), np.transpose(each))))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_code("light.py", main))
