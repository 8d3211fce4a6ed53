"""image_to_mesh.py with a feed-forward network: an image to a mesh in one pass."""
import argparse
import json
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import _html_report

import simple_video_sample
from sgm.common.cli import check_folder, loading
from sgm.common.errors import InputError, one_line, os_reason
from sgm.common.files import atomic
from sgm.common.locks import locked
from sgm.common.progress import Bar, Chain, job_begins, say
from sgm.common.ranks import this_rank
from sgm.config.lrm import LrmSpec, load_lrm_spec
from sgm.config.model_files import spec_type
from sgm.config.yaml_reader import ConfigError, find_config, read_mapping
from sgm.reconstruct.stage_files import check_output
from sgm.views.folder import read_run
from sgm.views.images import file_hash, list_images, load_image, save_png
from sgm.views.preprocessing import cut_object

# Flags that are of this way alone, and those of both.
OWN = ("resolution", "texture", "faces", "views")
SHARED = ("image", "config", "ckpt", "output", "overwrite", "format", "set", "device", "device_id",
          "mode", "elevation", "resume", "obj_up", "quiet", "verbose")
OF_VIEWS = ("orbit", "elevations", "azimuths", "azimuth_sign", "size", "background", "fps")
SIDE = 128              # pixels of a rendered view, unless --size says otherwise
# A first guess of the seconds of the stages, of which only the relations matter.
PLANNED = {"encode": 2, "planes": 20, "grid": 10, "clean": 2, "color": 1, "files": 4}


def is_feedforward(config):
    """Return whether --config names a feed-forward network. Raises ConfigError."""
    if config is None:
        return False
    return spec_type(read_mapping(find_config(config, "sampling", "lrm"))) is LrmSpec


def add_flags(group):
    """Add the flags that only feed-forward networks have."""
    from sgm.common.cli import int_range
    add = group.add_argument
    add("--resolution", type=int_range(4, 1024), metavar="N",
        help="points along a side of the grid that the surface is found in (default: the network's,"
        " lrm_small 128, the others 256)")
    add("--texture", type=int_range(64, 8192), nargs="?", const=1024, metavar="N",
        help="bake a texture of N x N texels (1024) instead of a color at each vertex")
    add("--faces", type=int_range(100, 2_000_000), metavar="N",
        help="most faces of the mesh (default 20000)")
    add("--views", type=int_range(1, 1000), nargs="?", const=21, metavar="N",
        help="also write a folder `views` of N views (21) that the network renders, of 128 pixels"
        " unless --size says otherwise")


def check_flags(parser, args):
    """End the command, naming a flag that was given and that the way chosen by --config lacks."""
    other = f"--config {args.config}" if args.config else "the embedded sv3d_tiny"
    for action in parser._actions:
        name = action.dest
        if not hasattr(args, name) or getattr(args, name) == action.default:
            continue
        flag = action.option_strings[-1] if action.option_strings else name
        if not args.feedforward and name in OWN:
            parser.error(f"argument {flag}: is of feed-forward networks, and {other} is none; give"
                         " --config lrm_small or triposr, or leave it out")
        if args.feedforward and name in OF_VIEWS and not args.views:
            parser.error(f"argument {flag}: is of views, which a feed-forward network writes with"
                         " --views alone; add it, or leave this out")
        if args.feedforward and name not in (*OWN, *SHARED, *OF_VIEWS):
            parser.error(f"argument {flag}: is of orbit models, and {other} is a feed-forward"
                         " network; leave it out")


class FeedForward:
    """The images, the network and the settings that the flags name. Raises InputError.

    model: the network of an earlier FeedForward with the same flags of model and device.
    """

    def __init__(self, args, model=None):
        self.args, self.spec = args, load_lrm_spec(args.config, args.set)
        self.formats = args.format.replace(" ", "").split(",")
        self.paths = list_images(args.image)
        check_folder(args.output, "--output")
        names = simple_video_sample.folder_names(self.paths)
        self.rank = this_rank()
        jobs = [(path, Path(args.output) / name) for path, name in zip(self.paths, names)]
        self.jobs, self.is_only_one = self.rank.share(jobs), len(jobs) == 1
        for _, folder in self.jobs:
            check_output(folder / "mesh")
        self.orbit(0.0 if args.elevation == "auto" else args.elevation)     # or why there is none
        self.side = SIDE
        if args.size:
            height, width = (int(re.search(r"\d+", text).group()) for text in args.size)
            if height != width:
                raise InputError(f"--size: found {height}x{width}, expected one number: the views"
                                 " of a feed-forward network are square")
            self.side = height
        with loading():
            from sgm import ops
            from sgm.checkpoints.loading import file_hash as hash_of_weights
            from sgm.feedforward.meshes import FACES
            from sgm.feedforward.reconstructor import RANDOM, load_lrm
            from sgm.views.folder import FORMATS
            from sgm.views.images import parse_background
        if unknown := set(self.formats) - set(FORMATS):
            raise ConfigError(f"--format: found {', '.join(sorted(unknown))}, expected any of"
                              f" {', '.join(FORMATS)}")
        self.background, self.faces = parse_background(args.background), args.faces or FACES
        device_id = args.device_id if self.rank.device is None else self.rank.device
        ops.set_device(args.device, device_id, args.mode)
        self.model = model or load_lrm(args.config, args.ckpt, args.set)
        self.weights = args.ckpt
        if args.ckpt not in (None, RANDOM):
            self.weights = hash_of_weights(args.ckpt)

    def orbit(self, elevation):
        """Return the cameras of the views for a picture from that elevation."""
        args = argparse.Namespace(**{**vars(self.args), "elevation": elevation})
        return simple_video_sample.cameras(args, args.views or 2, args.seeds[0])

    def elevation(self):
        """Return the elevation of the first image's camera in degrees, by the network's estimator.

        Raises InputError if there is none.
        """
        image = cut_object(load_image(self.paths[0]), name=self.paths[0].name).image
        return self.model.elevation_of(image)

    def made_with(self, path):
        """Return what a result depends on, as JSON has it."""
        args = self.args
        return {"model": self.spec.name, "weights": self.weights, "set": args.set,
                "image": file_hash(path), "elevation": args.elevation, "faces": self.faces,
                "resolution": args.resolution or self.spec.volume.grid, "texture": args.texture,
                "obj_up": args.obj_up, "format": self.formats, "views": args.views,
                **({name: getattr(args, name) for name in OF_VIEWS} if args.views else {})}

    def run(self, tell=None):
        """Make the meshes of all images; return the exit code of the command.

        tell: of the `Chain` that shows progress.
        """
        started, failed, peaks = time.monotonic(), 0, []
        stages = {**PLANNED, **({"views": 10} if self.args.views else {})}
        with Chain([stages], self.args.quiet, tell):
            for number, (path, folder) in enumerate(self.jobs, 1):
                job_begins(path.name, number, len(self.jobs))
                try:
                    report = self.make(path, folder)
                    peaks += [report["peak_gb"]] if report else []
                except InputError as error:
                    said = str(error)
                    named = said.startswith((f"{path}: ", "--output"))
                    if self.is_only_one:
                        raise InputError(said if named else f"{path}: {said}") from None
                    failed += 1
                    say(one_line(said if named else f"{path}: {said}"), sys.stderr)
                except OSError as error:
                    raise ConfigError(f"--output {folder}: cannot be written:"
                                      f" {os_reason(error)}") from None
        if peaks:
            say(f"{time.monotonic() - started:.1f} s in all, at most {max(peaks):.1f} GB")
        return self.rank.exit_code(1 if failed else 0)

    def make(self, path, folder):
        """Write the mesh of an image into a folder; return its report, None if it was there."""
        from sgm.ops.profiling import StageTimer
        from sgm.reconstruct import report as pictures
        from sgm.views.folder import check_replaceable, is_finished
        from sgm.views.matting import drawn
        args, made_with = self.args, json.loads(json.dumps(self.made_with(path)))
        output = folder / "mesh"
        if args.resume and finished(folder) == made_with:
            say(f"{folder}: finished already, skipped (without --resume it is made again)")
            return None
        if args.views:
            check_replaceable(folder / "views")
            if is_finished(folder / "views") and not args.overwrite and not (
                    args.resume and image_of(folder / "views") == made_with["image"]):
                raise InputError(f"{folder / 'views'}: holds views already; --overwrite replaces"
                                 " them, or give another --output")
        image = load_image(path)
        cut = cut_object(image, name=path.name)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, "--output"):
            timer = StageTimer()
            scene = self.model.scene(cut.image, args.elevation, timer)
            with counted("grid", made_with["resolution"]) as count:
                mesh = scene.mesh(args.resolution, self.faces, args.texture or 0, timer, count)
            with timer("files"):
                for name in (_html_report.NAME, "report.json"):     # of an earlier mesh
                    (folder / name).unlink(missing_ok=True)
                # It tells that the folder is ours, before anything else is in it.
                write_json(output / "report.json", {"settings": made_with, "interrupted": True})
                for name in ("mesh.mtl", "mesh.png", "turntable.mp4", "turntable.gif"):
                    (output / name).unlink(missing_ok=True)         # which this one may not have
                for kind in ("obj", "ply", "glb"):
                    mesh.save(output / f"mesh.{kind}", args.obj_up)
                if {"mp4", "gif"} & set(self.formats):
                    pictures.write_turntable(output, pictures.turntable(mesh))
            matte = drawn(image, cut.image)
            if args.views:
                with timer("views"), counted("views", 1) as count:
                    views = scene.views(self.orbit(scene.elevation), self.side, count)
                views.run |= {"image": {"file": path.name, "hash": made_with["image"]},
                              "weights": self.weights, "stages": timer.log}
                views.matte = matte
                views.save(folder / "views", self.background, args.fps, self.formats,
                           overwrite=True)
            save_png(folder / "input.png", scene.source)
            save_png(folder / "input_matte.png", matte)
            report = self.record(path, timer.log, scene, mesh, made_with)
            write_json(output / "report.json", {
                "settings": made_with, "stages": timer.log, "mesh": report["mesh"],
                "interrupted": False})
            write_json(folder / "report.json", report)
            page = _html_report.write(folder, output, report)
        facts = report["mesh"]
        told = " (estimated)" * (args.elevation == "auto")
        say(f"{output}: {facts['faces']} faces, {'' if facts['watertight'] else 'not '}watertight;"
            f" density above {self.spec.volume.threshold:g} on {made_with['resolution']}^3 points;"
            f" seen from {scene.elevation:.0f} degrees above{told}; {report['seconds']} s, at most"
            f" {report['peak_gb']} GB\n{page}")
        return report

    def record(self, path, stages, scene, mesh, made_with):
        """Return what report.json says."""
        import mindspore as ms

        from sgm import __version__
        from sgm.geometry.topology import describe
        return {"image": {"file": path.name, "hash": made_with["image"]}, "model": self.spec.name,
                "license": self.spec.license, "seed": None, "steps": None,
                "device": self.args.device,
                "versions": {"sv3d-mindspore": __version__, "mindspore": ms.__version__},
                "elevation": scene.elevation, "threshold": self.spec.volume.threshold,
                "seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
                "peak_gb": max(stage["peak_gb"] for stage in stages.values()), "stages": stages,
                "made_with": made_with, "mesh": describe(mesh.vertices, mesh.faces),
                "metrics": {}, "doubts": [], "interrupted": False}


def image_of(views):
    """Return the hash of the image that a views folder was made of, by its run.json; or None."""
    image = read_run(views).get("image")
    return image.get("hash") if isinstance(image, dict) else None


def write_json(path, values):
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1))


def finished(folder):
    """Return what the finished result in a folder was made with; None without one."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return report["made_with"] if (folder / _html_report.NAME).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def counted(name, total):
    """Context manager: yields on_part(done, all), which a bar of a stage follows."""
    with Bar(total, name) as bar:
        def on_part(done, total):
            bar.total = total
            bar.update(done - bar.done)
        yield on_part
