#!/usr/bin/env python3
"""Make a textured mesh of views with known cameras.

Radiance field, depth fusion with the visual hull, DMTet, texture.

  views_to_mesh.py outputs/cup
  views_to_mesh.py capture/transforms.json --config fast --output outputs/capture
  views_to_mesh.py outputs/cup --resume              continue a run that was ended
  views_to_mesh.py outputs/cup --stages texture --set texture.size=2048
  views_to_mesh.py orbit.mp4 --orbit static          frames without cameras, input view last
  views_to_mesh.py outputs/cup --distill --ckpt sv3d_p.safetensors      hidden surface by the model

The views: a folder that simple_video_sample.py or render_orbits.py wrote, or any transforms.json
(nerfstudio, Instant-NGP, Blender), with alpha or without, of any scale. The output folder gets
mesh.glb (y up), mesh.obj with .mtl and .png, mesh.ply (both in the views' own world; --obj-up y
turns the .obj), contact.png, light.png, turntable.mp4 and .gif, report.json; its folder `work` gets
previews and what --resume continues.
Exit code: 0 done, 2 wrong input, 3 the files are written, but the mesh does not explain its views,
130 ended by Ctrl-C (the mesh is then made of what there was, with its report.json; a finished one
of an earlier run stays instead).
"""
import argparse
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.common.cli import Arguments, check_folder, exit_code, float_range, int_range, loading
from sgm.common.errors import InputError
from sgm.common.progress import say
from sgm.config.model import PRECISIONS
from sgm.config.reconstruction import load_mesh_spec
from sgm.reconstruct.stage_files import STAGES, check_output, mesh_folder
from sgm.views.folder import read_run
from sgm.views.frames import RIGS


def stage_list(text):
    """Return the stages named in `text`, in their own order: the argparse type of --stages."""
    names = [name.strip() for name in text.split(",")]
    if not names or any(name not in STAGES for name in names):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected some of {','.join(STAGES)}")
    return tuple(name for name in STAGES if name in names)


def elevation(text):
    """Return "auto", or an elevation in degrees: the argparse type of --elevation."""
    return text if text == "auto" else float_range(-89, 89)(text)


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(
        prog="views_to_mesh.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("views", type=Path, help="folder with a transforms.json, or the json file; with --orbit a"
        " folder of pictures, a video, a GIF, or one picture of all views")
    add("--output", type=Path, help="folder to write; default: `mesh` within the views folder")
    add(
        "--config",
        default="default",
        help="default, fast, fine, sv3d, or a YAML file (default: default)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, as in --set nerf.steps=300; repeatable",
    )
    add(
        "--stages",
        type=stage_list,
        default=STAGES,
        help="which to run, of nerf,dmtet,texture; what is left out is taken"
        " from the output folder if it is there, and skipped if not (default: all)",
    )
    add_flags(parser)
    add("--seed", type=int_range(0, 2 ** 32 - 1), help="seed of everything random")
    add("--azimuth-sign", type=int, choices=(1, -1), default=1,
        help="-1: the cameras' azimuths run the other way (default 1)")
    add("--orbit", choices=tuple(RIGS),
        help="cameras of views that came without a transforms.json")
    add("--fov", type=float_range(1, 120), metavar="DEG",
        help="field of view of the cameras of --orbit (default: the orbit's own)")
    add("--elevation", type=elevation, metavar="auto|DEG",
        help="elevation of a static orbit's cameras; auto: what the outlines tell (default: the"
        " cameras' own; auto for sv3d_u, which tells nobody)")
    add("--write-cameras", action="store_true",
        help="put the elevation that is used into transforms.json; the old file is kept beside it")
    add("--up", default="auto",
        help="what is up in the views' world: y, z, or a direction as --up=X,Y,Z; auto: by the"
        " cameras (default auto)")
    add("--original-world", action="store_true",
        help="write mesh.obj and mesh.ply in the world that the poses were in before nerfstudio's"
        " applied_transform")
    add("--model", help="the orbit model of --distill (default: what run.json in the views' folder"
        " says)")
    add("--ckpt", help="its weights (default: those of the embedded model)")
    add("--lora", help="a LoRA for them")
    add("--dtype", choices=PRECISIONS, default="fp32", help="precision of its UNet (default fp32)")
    add("--sequential-cfg", action="store_true",
        help="the two sides of its guidance one after the other: half the memory")
    add("--device", default="CPU", choices=("CPU", "Ascend"), help="default CPU")
    add("--device-id", type=int_range(0, 1023), default=0, help="which NPU (default 0)")
    return parser.parse_args(argv)


def add_flags(parser):
    """Add the flags that image_to_mesh.py has as well.

    `settings` and `options` read them, but for --distill.
    """
    add = parser.add_argument
    add(
        "--resume",
        action="store_true",
        help="continue what an earlier run left in the output folder",
    )
    add("--obj-up", choices=("y", "z"),
        help="axis that is up in mesh.obj: y turns it as mesh.glb is (default: as in the views' own"
        " world, where ours have z up)")
    light = parser.add_mutually_exclusive_group()
    light.add_argument("--no-light", action="store_true",
        help="do not tell the light from the albedo: mesh.glb is unlit, as the views show it")
    light.add_argument("--bake-light", action="store_true",
        help="mesh.glb is unlit: albedo times the light that was found")
    add("--distill", action=argparse.BooleanOptionalAction, default=False,
        help="the model of the views tells what none of them shows; a line says how long that takes"
        " (default: no)")


def settings(args):
    """Return the flags of `add_flags` that are settings, as `load_mesh_spec` takes them."""
    return [*["light.use=false"] * args.no_light, *["light.bake=true"] * args.bake_light]


def options(args):
    """Return the other flags of `add_flags` as keywords of `Reconstruction`."""
    return {"resume": args.resume, "progress": not args.quiet, "obj_up": args.obj_up}


def result(run):
    """Return the lines about a `Reconstruction` that has ended."""
    if run.kept:
        return f"{run.output}: the finished mesh of an earlier run stays"
    output, report = run.output, run.report
    seconds = sum(stage["seconds"] for stage in report["stages"].values())
    peak = max(stage["peak_gb"] for stage in report["stages"].values())
    mesh = report["mesh"]
    lines = [f"{output}: {mesh['faces']} faces, {'' if mesh['watertight'] else 'not '}watertight;"
             f" {seconds:.0f} s, at most {peak:.1f} GB"]
    if "applied_transform" in report["views"]["world"]:
        lines.append(f"mesh.obj, mesh.ply: in {report['views']['world']}")
    lines += [f"{name.replace('_', ' ')} views: {found['psnr_fg']:.2f} dB on the object, silhouette"
              f" IoU {found['iou']:.3f}" for name, found in report.get("metrics", {}).items()]
    if run.interrupted:
        lines.append(f"{output}: the mesh is made of what there was")
    return "\n".join(lines)


def distiller_of(folder, engine, spec, sequential):
    """Return the Distiller of a views folder by an Engine, and say how long it will take.

    spec: a `MeshSpec`. sequential: the two sides of the guidance one after the other.
    """
    from sgm.reconstruct.distill import orbit_model
    distiller = orbit_model.of_views(folder, engine, spec.distill, sequential)
    clips = spec.distill.count(spec.dmtet.steps)
    seconds = orbit_model.seconds_per_clip(read_run(folder))
    much = "for an unknown time" if seconds is None else (
        f"{clips * seconds / 60:.1f} minutes or less, by the times of its views")
    say(f"{folder}: distillation by {distiller.denoise.name}: {clips} clips, {much}")
    return distiller


def main(argv=None):
    """Run the command. Return its exit code."""
    args = parse(argv)
    overrides = [*args.set, *settings(args)]
    overrides += [f"seed={args.seed}"] if args.seed is not None else []
    spec = load_mesh_spec(args.config, overrides)
    output = args.output or mesh_folder(args.views)
    if args.fov and not args.orbit:
        raise InputError(f"--fov {args.fov:g}: belongs to --orbit; the cameras in a transforms.json"
                         " have their own")
    if args.orbit and args.distill:
        raise InputError("--distill: belongs to a views folder, whose last view is the model's"
                         " input; leave --orbit out")
    unused = [flag for flag, given in (
        ("--model", args.model), ("--ckpt", args.ckpt), ("--lora", args.lora),
        ("--dtype", args.dtype != "fp32"), ("--sequential-cfg", args.sequential_cfg),
    ) if given and not args.distill]
    if unused:
        raise InputError(f"{unused[0]}: is of a model that distills; give --distill, too")
    if not args.views.exists():
        raise InputError(
            f"{args.views}: no such file or folder; give a folder of views with its transforms.json"
        )
    check_folder(output, "--output")
    check_output(output)
    with loading():
        from sgm import ops
        from sgm.reconstruct.pipeline import Reconstruction
    ops.set_device(args.device, args.device_id)
    distiller = None
    if args.distill:
        from sgm.reconstruct.distill import orbit_model
        engine = orbit_model.load(args.views, args.model, args.ckpt, args.dtype, args.lora)
        distiller = distiller_of(args.views, engine, spec, args.sequential_cfg)
    run = Reconstruction(
        args.views, spec, output, args.stages, azimuth_sign=args.azimuth_sign, up=args.up,
        original_world=args.original_world, elevation=args.elevation,
        write_cameras=args.write_cameras, orbit=args.orbit, fov=args.fov, distiller=distiller,
        **options(args),
    )
    run.run()
    print(result(run))
    if run.interrupted:
        print("views_to_mesh.py: interrupted; --resume continues", file=sys.stderr)
        return 130
    if run.report["doubts"]:
        print("views_to_mesh.py: the mesh does not explain its views; what disagrees is said above"
              " and in report.json", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(
        exit_code(
            "views_to_mesh.py",
            main,
            interrupted="interrupted; --resume goes on with what was saved",
        )
    )
