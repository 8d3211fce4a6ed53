#!/usr/bin/env python3
"""Compare orbits by the meshes that are made of their views.

  python benchmarks/orbits.py 1000003 1000004 --out runs/orbits
  python benchmarks/orbits.py 1000003 1000004 --out runs/orbits --generated
  python benchmarks/orbits.py 1000003 --out runs/orbits --generated --lrm lrm_small.safetensors

Each procedural object, named by its seed, is seen from 21 views of each orbit; all orbits end on
the same input view. The views are rendered, or with --generated what the embedded model makes of
the input view. Of each a mesh is made. Printed are its Chamfer distance to the object, and
foreground PSNR and silhouette IoU from 36 cameras on rings at 0, 20 and 40 degrees (Orbit.rings),
then the medians. --lrm: also the mesh that a feed-forward network makes of the input view in one
pass, and how long it takes once its graphs are compiled. What is finished in --out is kept: give
another one for other settings.

Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402

from sgm.common.cli import Arguments, check_folder, exit_code, int_range  # noqa: E402
from sgm.common.locks import locked  # noqa: E402
from sgm.config.reconstruction import load_mesh_spec  # noqa: E402
from sgm.geometry import metrics as mesh_metrics  # noqa: E402
from sgm.geometry.mesh_reader import load_mesh  # noqa: E402
from sgm.render.procedural import make_object, on_white  # noqa: E402
from sgm.render.zbuffer import SOFT, render_views  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import FOV_DEG, Orbit  # noqa: E402
from sgm.views.folder import Views  # noqa: E402
from sgm.views.images import save_png  # noqa: E402

ELEVATION = 10.0                    # of the input view, degrees
ORBITS = {"static": Orbit.static(ELEVATION), "sine-30": Orbit.sine(30, ELEVATION),
          "sine-50": Orbit.sine(50, ELEVATION)}
SIZE, MEASURED = 384, 192           # pixels per side of rendered views, and of what is measured
HEAD, ROW = "{:>9s} {:8s} {:>8s} {:>6s} {:>6s}", "{:>9s} {:8s} {:8.4f} {:6.2f} {:6.3f}"


def write_views(folder, mesh, orbit, engine):
    """Write the views of an object: rendered, or generated if there is an engine."""
    if engine is None:
        frames = render_views(mesh, orbit.poses(), SIZE, FOV_DEG, lighting=SOFT)
        Views(on_white(frames), frames[-1], orbit).save(folder, overwrite=True, formats=())
        for k, frame in enumerate(frames):      # with their own alpha, not one told from white
            save_png(folder / f"{k:03d}.png", frame)
        return
    from sgm.diffusion.pipeline import generate
    side = engine.spec.height
    image = render_views(mesh, orbit.poses()[-1:], side, FOV_DEG, lighting=SOFT)[0]
    generate(engine, image, orbit).save(folder, overwrite=True, formats=())


def lrm_mesh(model, mesh):
    """Return the ColoredMesh that a feed-forward network makes of the input view of an object."""
    from sgm.config.reconstruction import CleanSpec
    from sgm.feedforward.rays import UPRIGHT_SCALE, upright_cameras
    from sgm.geometry.cleaning import clean
    from sgm.geometry.textured_mesh import ColoredMesh
    from sgm.views.images import as_levels
    pose = Orbit.static(ELEVATION).poses()[-1:]
    image = on_white(render_views(mesh, pose, model.spec.image_size, FOV_DEG, lighting=SOFT))
    tokens = model.encode(image.transpose(0, 3, 1, 2) / np.float32(255))
    planes = model.planes(tokens, upright_cameras([ELEVATION]))
    vertices, faces = clean(*model.surface(planes), CleanSpec())
    colors = as_levels(model.field(planes, vertices[None])[1][0])
    return ColoredMesh(np.float32(vertices / UPRIGHT_SCALE), faces, colors)


def measure(file, mesh):
    """Return the Chamfer distance of a mesh file to `mesh`, foreground PSNR and IoU."""
    from sgm.reconstruct.report import UNLIT
    made, poses = load_mesh(file), Orbit.rings().poses()
    distance = mesh_metrics.compare((made.vertices, made.faces), (mesh.vertices, mesh.faces))
    pairs = zip(render_views(made, poses, MEASURED, FOV_DEG, lighting=UNLIT),
                render_views(mesh, poses, MEASURED, FOV_DEG, lighting=SOFT))
    seen = metrics.mean_metrics([metrics.compare(*pair) for pair in pairs])
    return distance["chamfer_l1"], seen["psnr_fg"], seen["iou"]


def compare(args):
    """Make all views and meshes that are missing, print the table; return the exit code."""
    from sgm.diffusion.pipeline import load_model
    from sgm.reconstruct.pipeline import Reconstruction
    spec = load_mesh_spec(args.config, ["light.bake=true", *args.set])    # mesh.glb as the views
    rows = {name: [] for name in ORBITS}
    engine = load_model() if args.generated else None
    folder = args.out / ("generated" if args.generated else "rendered")
    model, seconds = None, []
    if args.lrm:
        from sgm.feedforward.reconstructor import load_lrm
        model, rows["lrm"] = load_lrm("lrm_small", args.lrm), []
    print(HEAD.format("object", "orbit", "Chamfer", "PSNR", "IoU"))
    for seed in args.objects:
        mesh = make_object(seed)
        for name, orbit in ORBITS.items():
            views = folder / f"{seed}_{name}"
            output = views / "mesh"
            if not (output / "mesh.glb").exists():
                write_views(views, mesh, orbit, engine)
                run = Reconstruction(views, spec, output, progress=False)
                run.run()
                if run.interrupted:             # a mesh of too few steps
                    shutil.rmtree(output)
                    raise KeyboardInterrupt
            rows[name].append(measure(output / "mesh.glb", mesh))
            print(ROW.format(str(seed), name, *rows[name][-1]), flush=True)
        if model is not None:
            started, file = time.monotonic(), args.out / "lrm" / f"{seed}.glb"
            lrm_mesh(model, mesh).save(file)
            seconds.append(time.monotonic() - started)
            rows["lrm"].append(measure(file, mesh))
            print(ROW.format(str(seed), "lrm", *rows["lrm"][-1]), flush=True)
    for name, found in rows.items():
        print(ROW.format("median", name, *np.median(found, 0)))
    if seconds[1:]:
        print(f"lrm: {np.median(seconds[1:]):.1f} s an object, after the first")
    return 0


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("objects", nargs="+", type=int_range(0, 2 ** 31 - 1), help="seeds of procedural objects")
    add("--out", type=Path, required=True, help="folder to fill")
    add("--generated", action="store_true", help="views of the embedded model")
    add("--lrm", help="weights of lrm_small")
    add("--config", default="fast", help="of views_to_mesh.py (default fast)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="one of its settings")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    check_folder(args.out, "--out")
    with locked(args.out, "--out"):
        return compare(args)


if __name__ == "__main__":
    sys.exit(exit_code("orbits.py", main))
