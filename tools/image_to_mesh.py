#!/usr/bin/env python3
"""One image (or a folder of them) to a textured mesh: views on an orbit, then a mesh of them.

  image_to_mesh.py photo.jpg                              # the embedded small model, 64 pixels
  image_to_mesh.py photos/ --config sv3d_p --ckpt sv3d_p.safetensors --device Ascend --dtype fp16
  image_to_mesh.py photo.jpg --mesh-config fast --mesh-set texture.size=2048
  image_to_mesh.py photo.jpg --resume                     # go on after an end, even kill -9
  image_to_mesh.py photos/ --config triposr --ckpt model.ckpt --texture         # in one pass

Each image and seed becomes a folder OUTPUT/<image>_<seed>: the views as simple_video_sample.py
writes them, in its folder `mesh` what views_to_mesh.py writes, report.json, and report.html, a page
with all of it that needs no network. All views are made first, with one model, then all meshes.
Finished views of the same image and flags are kept; so are finished meshes with --resume.
With a feed-forward network (--config lrm_small, vfusion3d, openlrm_base, triposr ...) there is no
orbit and no optimization: the folder is OUTPUT/<image>, its mesh stands upright, z up, with a
longest side of 1; --elevation tells from how far above the picture was taken, auto: the network's
own estimate.
Exit code: 0 done, 1 some images failed, 2 wrong input, 3 all is written, but a mesh does not
explain its views, 130 interrupted.
"""
import argparse
import json
import logging
import sys
import time
from dataclasses import asdict

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import _feedforward
import _html_report
import views_to_mesh

import simple_video_sample
from sgm.common.cli import Arguments, exit_code
from sgm.common.errors import InputError, of_command, one_line
from sgm.common.files import atomic
from sgm.common.progress import Chain, job_begins, say
from sgm.config.reconstruction import load_mesh_spec
from sgm.config.yaml_reader import ConfigError
from sgm.reconstruct.stage_files import check_output, mesh_folder

RENAMED = {"--set": "--mesh-set"}       # flags of views_to_mesh.py that have another name here
KNOWS = ("the embedded model knows simple procedural objects only, at 64 pixels: with a photo it"
         " shows that the program works, not quality. For photos give published weights, as in"
         " --config sv3d_p --ckpt sv3d_p.safetensors; README.md says where they are")
REPORTS = (_html_report.NAME, "report.json")
log = logging.getLogger("sgm")


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(prog="image_to_mesh.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    simple_video_sample.add_flags(parser, "image")
    group = parser.add_argument_group("mesh")
    group.add_argument("--mesh-config", default="default", metavar="NAME|YAML",
                       help="default, fast, fine, sv3d, or a YAML file (default: default)")
    group.add_argument("--mesh-set", action="append", default=[], metavar="KEY=VALUE",
                       help="one setting of the mesh, as in nerf.steps=300; repeatable")
    views_to_mesh.add_flags(group)
    _feedforward.add_flags(parser.add_argument_group("feed-forward networks"))
    args = parser.parse_args(argv)
    args.feedforward = _feedforward.is_feedforward(args.config)
    _feedforward.check_flags(parser, args)
    if args.resume and args.overwrite:
        parser.error("argument --resume: keeps what --overwrite makes again; give one of them")
    return args


def planned(model, steps, mesh, distilled):
    """Return a first guess of the seconds of all stages, as `sgm.common.progress.Chain` takes it.

    Measured on one core with the embedded model and the mesh settings `fast`, and at full size
    (docs/results.md); only their relations matter. model: a `ModelSpec`, steps: of
    sampling, mesh: a `MeshSpec`, distilled: whether there is that stage.
    """
    if model.height * model.width <= 64 * 64:
        views, clip = {"condition": 4, "sample": 8, "decode": 3}, 3
    else:
        share = model.num_frames * model.height * model.width / (21 * 576 * 576)
        views = {"condition": 20, "sample": 350 * steps * share, "decode": 400 * share}
        clip = (350 + 2 * 400) * share
    dmtet = sum(steps * count * (side / 288) ** 2 for steps, count, side
                in zip(mesh.dmtet.steps, mesh.dmtet.views, mesh.dmtet.sides))
    of_mesh = {"views": 3, "hull": 6, "nerf": 1e-4 * mesh.nerf.steps * mesh.nerf.rays,
               "surface": 14, "dmtet": 0.12 * dmtet}
    if distilled:
        of_mesh["distill"] = clip * mesh.distill.count(mesh.dmtet.steps)
    return views, {**of_mesh, "texture": 15}


def main(argv=None):
    """Make the views and meshes of all images; return the exit code."""
    started = time.monotonic()
    # 1. flags, and the model
    args = parse(argv)
    if args.feedforward:
        return _feedforward.FeedForward(args).run()
    with of_command(RENAMED):
        spec = load_mesh_spec(args.mesh_config,
                              [*args.mesh_set, *views_to_mesh.settings(args)])
    sampling = simple_video_sample.Sampling(args, is_for_mesh=True)
    model = sampling.spec
    if not model.is_orbit:
        raise ConfigError(f"--config {args.config}: found {model.name}, which makes a video without"
                          " cameras, expected a model of orbits: sv3d_u, sv3d_p")
    if args.config is None:
        log.info(KNOWS)
    for _, _, folder in sampling.jobs:
        check_output(mesh_folder(folder))
        if args.overwrite:              # a report stands for finished views
            for name in REPORTS:
                (folder / name).unlink(missing_ok=True)

    # 2. all views, then, without the model, all meshes
    meshes = Meshes(args, spec, sampling.engine if args.distill else None)
    with Chain(planned(model, args.steps or model.sampling.steps, spec, args.distill), args.quiet):
        of_views = sampling.run()
        sampling.engine.release()
        sampling.engine = None
        with of_command(RENAMED):
            of_meshes = meshes.run(sampling.finished, sampling.is_only_one)
    code = of_meshes if of_meshes == 130 or not of_views else of_views

    # 3. what it took
    if meshes.peaks:
        say(f"{time.monotonic() - started:.0f} s in all, at most {max(meshes.peaks):.1f} GB")
    if code == 130:
        print("image_to_mesh.py: interrupted; --resume continues", file=sys.stderr)
    if code == 3:
        print("image_to_mesh.py: a mesh does not explain its views; what disagrees is said above"
              " and in report.html", file=sys.stderr)
    return sampling.rank.exit_code(code)


class Meshes:
    """The meshes of views folders, and their reports.

    args: the flags. spec: a `MeshSpec`. engine: the Engine that distills, or None. options: more
    of `Reconstruction`. peaks: the most memory, in GB, of each folder in turn.
    """

    def __init__(self, args, spec, engine=None, **options):
        self.args, self.spec, self.engine, self.peaks = args, spec, engine, []
        self.options = {**views_to_mesh.options(args), **options}
        flags = {name: value for name, value in self.options.items()
                 if name not in ("resume", "progress")}
        self.made_with = json.loads(json.dumps({"settings": asdict(spec), **flags,
                                                "distill": engine is not None}))

    def run(self, folders, is_only_one):
        """Make the meshes of all folders; return the exit code of the command.

        is_only_one: whether an error of a folder ends the command.
        """
        failed = has_doubts = False
        for number, folder in enumerate(folders, 1):
            job_begins(folder.name, number, len(folders))
            try:
                report = self.make(folder)
            except InputError as error:
                if is_only_one:
                    raise
                failed = True
                say(one_line(f"{folder}: {error}"), sys.stderr)
                continue
            if report is None:
                return 130
            has_doubts |= bool(report["doubts"])
        return 1 if failed else 3 if has_doubts else 0

    def make(self, folder):
        """Make the mesh of a views folder and its report; return what report.json says.

        None if it was interrupted.
        """
        from sgm.reconstruct.pipeline import Reconstruction
        report = self.finished(folder) if self.args.resume else None
        if report is not None:
            say(f"{folder}: finished already, skipped (without --resume it is made again)")
            return report
        distiller = None
        if self.engine is not None:
            distiller = views_to_mesh.distiller_of(folder, self.engine, self.spec,
                                                   self.args.sequential_cfg)
        run = Reconstruction(folder, self.spec, mesh_folder(folder), distiller=distiller,
                             outdated=[folder / name for name in REPORTS], **self.options)
        run.run()
        say(views_to_mesh.result(run))
        if run.interrupted:
            return None
        report = record(folder, run.report, self.made_with)
        self.peaks.append(report["peak_gb"])
        with atomic(folder / "report.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1))
        say(f"{_html_report.write(folder, mesh_folder(folder), report)}")
        return report

    def finished(self, folder):
        """Return the report.json of a mesh that this run would make again; None without one."""
        try:
            report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            same = report["made_with"] == self.made_with
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return report if same and (folder / _html_report.NAME).is_file() else None


def record(folder, mesh, made_with):
    """Return what report.json says of a views folder and its mesh.

    mesh: the report of `Reconstruction`. made_with: settings and flags of the mesh. seconds: the
    sum of the stages.
    """
    views = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    stages = {**views["stages"], **mesh["stages"]}
    return {"image": views["image"], "model": views["model"], "seed": views["seed"],
            "steps": views["steps"], "device": views["device"], "versions": views["versions"],
            "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
            "peak_gb": max(stage["peak_gb"] for stage in stages.values()),
            "stages": stages, "made_with": made_with, "mesh": mesh["mesh"],
            "metrics": mesh.get("metrics", {}), "doubts": mesh.get("doubts", []),
            "interrupted": mesh["interrupted"]}


def run(argv=None):
    """Return the exit code of `main`; errors are one line."""
    return exit_code("image_to_mesh.py", main, argv,
                     "interrupted; --resume goes on with what was saved")


if __name__ == "__main__":
    sys.exit(run())
