#!/usr/bin/env python3
"""Measure generated views against true ones, or a mesh against the true one.

  evaluate.py views outputs/run data/held_back --csv run.csv --sheet run.png
  evaluate.py views outputs/duck objects/duck/static --wrong-poses outputs/duck_quarter_turn_off
  evaluate.py mesh outputs/duck/mesh.glb objects/duck/mesh.ply --json duck.json
  evaluate.py mesh outputs/duck/mesh.glb objects/duck/mesh.ply --views objects/duck/dynamic

PRED and GT are views folders (000.png ..., the input view last) or folders of views folders,
matched by name: cup with cup, and cup_23, made of cup.png with seed 23, with cup too. The input
view is not counted. PSNR (dB), PSNR over the union of both silhouettes, SSIM, silhouette IoU: mean
over views, then over objects. Next to the prediction stand the baselines made from GT: the input
repeated, and the mean of the true orbit, which knows the answer but no pose; a model that does not
beat it has learned no geometry.

mesh: both in one world, z up, the true one inside [-0.5, 0.5]^3; --up gives the prediction's up
axis. Chamfer distance (mean distance there plus back, 10000 points each against 500000; 0.002 is
left between equal meshes), F-score at 0.01 and 0.02, normal consistency, IoU of the volumes on
voxels of 1/64. --visible: for true meshes that are open or hide faces inside: the true points are
those that at least one of 100 cameras around the mesh sees, and what no camera looks through is the
volume, of both. --views: the prediction, its texture unlit, from the cameras of a views folder in
the same world against its pictures, with the figures of `views`; do not use these views for the
reconstruction. Two last figures follow the protocol of SV3D's authors, who scale each mesh to a box
of its own and measure between vertices: they are for comparison with their tables only.
Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import Arguments, exit_code


def main(argv=None) -> int:
    """Measure what the flags name; return the exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    views = commands.add_parser("views", help="PSNR, SSIM and silhouettes of views")
    views.add_argument("prediction", type=Path, metavar="PRED",
                       help="views folder, or a folder of them")
    views.add_argument("truth", type=Path, metavar="GT", help="views folder, or a folder of them")
    views.add_argument("--wrong-poses", type=Path, nargs="+", default=[], metavar="DIR",
                       help="the same model's views conditioned on other poses, named after DIR:"
                            " shows whether poses matter to it")
    views.add_argument("--csv", type=Path, metavar="FILE", help="write every view's figures")
    views.add_argument("--sheet", type=Path, metavar="FILE",
                       help="write a contact sheet: per object a row of truth and one of"
                            " prediction, input view first")
    mesh = commands.add_parser("mesh", help="Chamfer distance, F-score, normals and IoU of a mesh")
    mesh.add_argument("prediction", type=Path, metavar="PRED",
                      help="mesh file (glb, gltf, obj, ply, stl, off)")
    mesh.add_argument("truth", type=Path, metavar="GT", help="mesh file, z up")
    mesh.add_argument("--up", choices=("auto", "y", "z"), default="auto",
                      help="the prediction's up axis; auto: y for glb and gltf, else z (default:"
                           " auto)")
    mesh.add_argument("--views", type=Path, metavar="DIR",
                      help="views folder: also measure the prediction as its cameras see it; the"
                           " input view is not counted")
    mesh.add_argument("--visible", action="store_true",
                      help="the true surface is what 100 cameras around it see, and volumes are"
                           " carved by their depth maps: for true meshes that are open or have"
                           " inner faces")
    mesh.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    args = parser.parse_args(argv)
    import _evaluation
    return (_evaluation.evaluate_views
            if args.command == "views" else _evaluation.evaluate_mesh)(args)


def run(argv=None) -> int:
    """Return the exit code of `main`; errors are one line."""
    return exit_code("evaluate.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
