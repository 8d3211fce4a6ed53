#!/usr/bin/env python3
"""One image (or a folder of them) to views on an orbit, or to a video.

  python simple_video_sample.py --image photo.jpg         # the embedded small model, 64 pixels
  python simple_video_sample.py --config sv3d_p --ckpt sv3d_p.safetensors --image photo.jpg

Each image and seed becomes a folder OUTPUT/<image>_<seed> with 000.png ..., transforms.json,
views.mp4, contact.png and run.json. Finished folders are skipped when the command is run again; if
they were made of another image or with other flags, a line says what differs.
A single image gives the memory of each stage back before the next; several keep what was compiled
for the next image. While one is sampled, the one before is written and the next one prepared.
Started by MindSpore's launcher (msrun --worker_num=8 --local_worker_num=8 --join=True
simple_video_sample.py ...), each process makes its share of the images on an NPU of its own.
Exit code: 0 done, 1 some images failed (0 under msrun, which would end the other processes),
2 wrong input, 130 interrupted (finished folders stay).
"""
import argparse
import re
import sys
from collections import Counter
from contextlib import ExitStack, closing
from errno import ENAMETOOLONG
from pathlib import Path

import sgm.common.startup  # noqa: F401 - first: Ctrl-C while modules load
from sgm.common.background import Line
from sgm.common.cli import (
    Arguments,
    check_folder,
    exit_code,
    float_list,
    float_range,
    int_range,
    loading,
    seed_list,
)
from sgm.common.errors import one_line, os_reason
from sgm.common.locks import LockedError, locked
from sgm.common.progress import Bar, each, job_begins, say
from sgm.common.ranks import this_rank
from sgm.config.model import (
    FPS,
    MAX_FPS,
    MAX_FRAMES,
    MAX_NUMBER,
    MAX_STEPS,
    PRECISIONS,
    PRESETS,
    SAMPLERS,
)
from sgm.config.yaml_reader import ConfigError
from sgm.views.cameras import AZIMUTH_SIGN, CameraError, Orbit
from sgm.views.images import (
    MAX_PIXELS,
    ImageError,
    file_hash,
    list_images,
    load_image,
    parse_background,
)
from sgm.views.preprocessing import cut_object, prepare
from sgm.views.transforms import read_orbit


def size(text):
    """Return "576" or "576x1024" as changes of the model's configuration."""
    if not re.fullmatch("[0-9]{1,5}(x[0-9]{1,5})?", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected pixels as in 576 or 576x1024"
                                         " (height x width)")
    height, _, width = text.partition("x")
    return [f"height={int(height)}", f"width={int(width or height)}"]


def elevation(text):
    """Return degrees, or "auto": the argparse type of --elevation."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected degrees, or auto") from None


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, "--image", required=True)
    return parser.parse_args(argv)


def add_flags(parser, image, **options):
    """Add the flags from the image to the views to a parser.

    image, options: name and options of the argument that gives the images.
    """
    add = parser.add_argument_group("input and output").add_argument
    add(image, metavar="PATH", **options,
        help="image file (png, jpg, webp, bmp, gif, tiff, avif) or folder of them (png, jpg, webp,"
        f" bmp); at most {MAX_PIXELS // 10 ** 6} megapixels each")
    add_model_flags(add)
    add("--output", default="outputs", metavar="DIR", help="default outputs")
    add("--overwrite", action="store_true",
        help="make finished folders again; what else is in them, a mesh for example, stays")
    add("--format", default="mp4,gif,png", metavar="LIST",
        help="what to write next to the views: any of mp4, gif, png (contact sheet and orbit plot);"
        " default all")
    add("--background", default="transparent", metavar="transparent|white|R,G,B",
        help="background of the saved views; default transparent, the silhouette estimated from the"
        " generated white")
    add("--fps", type=int_range(1, MAX_FPS), default=FPS,
        help=f"frames per second of the video, and condition of svd; default {FPS}")
    add("--preview", type=int_range(0, MAX_STEPS), default=0, metavar="N",
        help="write OUTPUT/<image>_<seed>.preview.png every N steps, until the views are there;"
        " default 0, never")

    add = parser.add_argument_group("the object in the image (orbit models)").add_argument
    add("--no-matte", action="store_true",
        help="use the image as it is: do not cut the object out")
    add("--frame-ratio", type=float_range(0.01, 1), default=None, metavar="R",
        help="object's larger side / frame side; default: the image's larger side makes the frame")

    add = parser.add_argument_group("cameras (orbit models)").add_argument
    add("--elevation", type=elevation, default=10.0, metavar="DEG|auto",
        help="elevation of the input view above the horizon, or auto: the estimate of the embedded"
        " feed-forward network; default 10. sv3d_u is not conditioned on it: it only labels the"
        " cameras")
    add("--orbit", default=None, metavar="static|dynamic|sine-A|FILE.json",
        help="dynamic: random as in the paper, by seed; sine-30: elevation + 30 sin(azimuth);"
        " default static (image_to_mesh.py: sine-30 for sv3d_p)")
    add("--elevations", type=float_list, default=None, metavar="LIST",
        help="degrees, one per view, input view last, as in -5,0,10")
    add("--azimuths", type=float_list, default=None, metavar="LIST",
        help="degrees, ascending, input view last")
    add("--azimuth-sign", type=int, choices=(1, -1), default=AZIMUTH_SIGN,
        help="1: views go counter-clockwise seen from above (camera to its right), -1: clockwise;"
        f" default {AZIMUTH_SIGN}")
    add("--num-frames", type=int_range(1, MAX_FRAMES), default=None, metavar="T",
        help="default: the model's (21 for SV3D)")

    add = parser.add_argument_group("sampling").add_argument
    add("--seeds", type=seed_list, default=[23], metavar="LIST", help="e.g. 0-3,7; default 23")
    add("--steps", type=int_range(1, MAX_STEPS), default=None,
        help="default: the model's (SV3D 50, svd 25, svd_xt 30, sv3d_tiny 3)")
    add("--sampler", choices=SAMPLERS, default=None, help="default euler")
    add("--preset", choices=PRESETS, default=None,
        help="few-steps: 12 steps of dpmpp2m with noise levels for them; --steps, --sampler and"
        " --set come after it")
    add("--guidance", type=float_range(-MAX_NUMBER, MAX_NUMBER), nargs=2, default=None,
        metavar=("MIN", "MAX"),
        help="scale at the least and the most guided frame; default: the model's (SV3D 1 2.5)")
    add("--size", type=size, default=[], metavar="S|HxW",
        help="pixels of a frame; default: the model's (576, svd 576x1024)")
    add("--motion-bucket", type=int_range(0, 255), default=127,
        help="amount of motion, 0-255 (svd only); default 127")
    add("--cond-aug", type=float_range(0, MAX_NUMBER), default=None, metavar="SIGMA",
        help="noise added to the condition image; default: the model's (SV3D 1e-5, svd 0.02)")
    add_set_flag(add)

    add = parser.add_argument_group("device and memory").add_argument
    add_device_flags(add)
    add("--keep-compiled", default=None, metavar="DIR",
        help="keep compiled networks in this folder: the next run with this model and these flags"
        " need not compile them")


def add_model_flags(add):
    """Add the flags that name a model and its weights. add: `add_argument` of a parser or group."""
    add("--config", default=None, metavar="NAME|YAML",
        help="model: sv3d_u, sv3d_p, svd, svd_xt, a YAML file of ours or of the original (default:"
        " the embedded sv3d_tiny)")
    add("--ckpt", default=None, metavar="FILE",
        help="weights: published .safetensors as it is, ours, .ckpt of MindSpore or PyTorch, or a"
        " diffusers folder; random: draw some, for tests")
    add("--lora", default=None, metavar="FILE",
        help="a LoRA of train.py for those weights (lora.safetensors)")
    add("--ema", action="store_true",
        help="take the moving average of the weights (EMA) that --ckpt holds besides them")


def add_set_flag(add):
    """Add the flag that changes a model's configuration."""
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="change one value of the model's configuration")


def add_device_flags(add):
    """Add the flags of device, precision and memory."""
    add("--device", choices=("CPU", "Ascend"), default="CPU", help="default CPU")
    add("--device-id", type=int, default=0, help="which NPU; default 0")
    add("--mode", choices=("graph", "pynative"), default="graph",
        help="pynative: operator by operator, for debugging")
    add("--dtype", choices=PRECISIONS, default="fp32",
        help="precision of the UNet, everything else is float32; fp16-weights computes in float32"
        " too and only keeps its weights in half precision; default fp32")
    add("--decode-chunk", type=int_range(1, MAX_FRAMES), default=7, metavar="T",
        help="frames decoded at once; default 7. The temporal decoder of svd sees one chunk as one"
        " video, so its result depends on it; the image decoder's does not")
    add("--sequential-cfg", action="store_true",
        help="both sides of the guidance one after the other: half the memory")


def overrides(args):
    """Return --size and --num-frames as changes of the model's configuration."""
    num_frames = [f"num_frames={args.num_frames}"] if args.num_frames else []
    return [*PRESETS.get(args.preset, ()), *args.set, *args.size, *num_frames]


def sample_options(args, seed, keep_graphs):
    """Return the `SampleOptions` of the flags."""
    from sgm.diffusion.pipeline import SampleOptions
    return SampleOptions(
        seed=seed, steps=args.steps, sampler=args.sampler, guidance_range=args.guidance,
        cond_aug=args.cond_aug, fps=args.fps, motion_bucket=args.motion_bucket,
        decode_chunk=args.decode_chunk, sequential=args.sequential_cfg, keep_graphs=keep_graphs)


def cameras(args, num_frames, seed, estimate=0.0):
    """Return the orbit of `num_frames` views that the flags describe. Raises CameraError.

    estimate: the elevation in degrees that --elevation auto stands for.
    """
    kind, elevation = args.orbit or "static", args.elevation
    if elevation == "auto":
        elevation = estimate
    if not abs(elevation) < 90:
        raise CameraError(f"--elevation: found {elevation:g}, expected degrees above -90 and"
                          " below 90")
    for flag, values in (("--azimuths", args.azimuths), ("--elevations", args.elevations)):
        if values:
            check_count(flag, len(values), num_frames)
    if args.azimuths or args.elevations:
        even = Orbit.static(elevation, num_frames)
        orbit = Orbit.from_lists(args.azimuths or even.azimuths_deg,
                                 args.elevations or even.elevations_deg)
    elif kind == "static":
        orbit = Orbit.static(elevation, num_frames)
    elif kind == "dynamic":
        orbit = Orbit.dynamic(seed, elevation, num_frames)
    elif kind.startswith("sine-"):
        try:
            orbit = Orbit.sine(float(kind[5:]), elevation, num_frames)
        except CameraError as error:
            raise CameraError(f"--orbit {kind} at --elevation {elevation:g}:"
                              f" {error}") from None
        except ValueError:
            raise CameraError(f"--orbit {kind}: expected a number of degrees after sine-, as"
                              " in sine-30") from None
    elif not Path(kind).exists():
        raise CameraError(f"--orbit {kind}: found no such file, expected static, dynamic,"
                          " sine-30 (degrees), a JSON file or a views folder")
    else:
        orbit = read_orbit(kind)
        check_count(f"--orbit {kind}", len(orbit), num_frames)
    return orbit.with_sign(args.azimuth_sign)


def check_count(flag, found, num_frames):
    """Raise CameraError unless there is a camera for each view."""
    if found != num_frames:
        raise CameraError(f"{flag}: found {found} views, expected {num_frames}, the input view"
                          f" last; to make {found} views give --num-frames {found}")


def folder_names(paths):
    """Return the names of the images' folders: each image's without suffix, if it is the only one.

    cup.jpg and cup.png keep their suffixes. Raises ImageError for equal names.
    """
    count = Counter(path.stem for path in paths)
    names = [path.stem if count[path.stem] == 1 else path.name for path in paths]
    if len(set(names)) < len(names):
        name = max(names, key=names.count)
        raise ImageError(f"{paths[0].parent}: two images would become the folder {name}; rename one"
                         " of them")
    return names


def main(argv=None):
    """Make the views of all images and seeds; return the exit code."""
    sampling = Sampling(parse(argv))
    return sampling.rank.exit_code(sampling.run())


class Sampling:
    """The images, seeds and cameras that the flags of `add_flags` name, and the model, loaded once.

    jobs: (image, seed, views folder) of each result, of this process's share if msrun has started
    several; finished: the folders that are there after `run`. is_for_mesh: whether the orbit, where
    no flag says it, is the model's best for a mesh. engine: that of an earlier Sampling with the
    same flags of model and device. on_step: called as that of
    `sgm.diffusion.pipeline.generate_views` is.
    Raises ConfigError, ImageError, CameraError and the like for flags that cannot be used.
    """

    def __init__(self, args, is_for_mesh=False, engine=None, on_step=None):
        # 1. flags
        self.args, self.on_step = args, on_step
        with loading():
            from sgm import ops
            from sgm.diffusion.pipeline import EMBEDDED, load_model
            from sgm.views.folder import FORMATS
        self.formats = args.format.replace(" ", "").split(",")
        unknown = set(self.formats) - set(FORMATS)
        if unknown:
            raise ConfigError(f"--format: found {', '.join(sorted(unknown))}, expected any of"
                              f" {', '.join(FORMATS)}")
        if args.ckpt and not args.config:
            raise ConfigError("--config is missing: weights need a model; without either the"
                              " embedded small model is used")
        self.background = parse_background(args.background)
        self.paths = list_images(args.image)
        check_folder(args.output, "--output")
        if args.keep_compiled:
            check_folder(args.keep_compiled, "--keep-compiled")
        jobs = [(path, seed, Path(args.output) / f"{name}_{seed}")
                for path, name in zip(self.paths, folder_names(self.paths))
                for seed in args.seeds]
        self.rank = this_rank()
        self.jobs, self.is_only_one = self.rank.share(jobs), len(jobs) == 1
        self.finished, self._estimates = [], {}

        # 2. the model
        device_id = args.device_id if self.rank.device is None else self.rank.device
        ops.set_device(args.device, device_id, args.mode)
        self.engine = engine or load_model(args.config or EMBEDDED[0], args.ckpt, args.dtype,
                                           overrides(args), args.lora, ema=args.ema)
        self.spec = self.engine.spec
        if is_for_mesh and args.orbit is None:
            args.orbit = self.spec.mesh_orbit
        if self.spec.is_orbit:      # wrong cameras are found before any work
            cameras(args, self.spec.num_frames, args.seeds[0])

    def run(self):
        """Make the views of all jobs; return the exit code of the command.

        While an image is sampled, the one before is written and the next is prepared.
        """
        from sgm.ops.compilation import kept_graphs
        args = self.args
        if args.elevation == "auto" and self.spec.is_orbit:
            self._estimates = self._estimated()
        identity = " ".join(map(str, (
            self.spec, args.dtype, args.device, self.rank.number, args.sequential_cfg,
            args.decode_chunk, args.preview > 0, len(self.jobs) > 1, args.elevation == "auto")))
        self._line = Line(self._prepare, self._sample, self._save, self._tell, self._explain)
        self._locks, self._compiles = {}, True
        try:
            with kept_graphs(args.keep_compiled, identity):
                self._line.run(enumerate(self.jobs, 1))
        except _OnlyOne:
            return 2
        finally:
            for locks in self._locks.values():
                locks.close()
        return 1 if len(self.finished) < len(self.jobs) else 0

    def _estimated(self):
        """Return the elevation in degrees that the embedded estimator tells of each image, by path.

        An image that cannot be used has the ImageError instead, for when its turn comes.
        """
        from sgm.feedforward.reconstructor import load_lrm
        try:
            network, found = load_lrm(), {}
        except ConfigError as error:
            raise ConfigError(f"--elevation auto: {error}; or give degrees") from None
        paths = list(dict.fromkeys(path for path, _, _ in self.jobs))
        for path in each(paths, "elevation", "image", self.args.quiet):
            try:
                cut = cut_object(load_image(path), name=path.name).image
                found[path] = round(network.elevation_of(cut), 1)
            except ImageError as error:
                found[path] = error
        return found

    def _prepare(self, item):
        """Return what `_sample` needs of the `number`-th job, and take the lock of its folder.

        (image, matte, what run.json says of it, orbit, options); image: None if it is finished.
        """
        from sgm.diffusion.pipeline import run_record
        from sgm.views.folder import check_replaceable, check_same, is_finished, output_record
        number, (path, seed, folder) = item
        args, spec = self.args, self.spec
        check_replaceable(folder)
        estimate = self._estimates.get(path)
        if isinstance(estimate, ImageError):    # with --no-matte, nothing else would notice
            raise estimate
        orbit = cameras(args, spec.num_frames, seed, estimate or 0.0) if spec.is_orbit else None
        options = sample_options(args, seed, keep_graphs=len(self.jobs) > 1)
        given = {"file": path.name, "hash": file_hash(path), "frame_ratio": args.frame_ratio,
                 "matte": spec.is_orbit and not args.no_matte}
        if estimate is not None:
            given["elevation_estimate"] = estimate
        if is_finished(folder) and not args.overwrite:
            run = {**run_record(self.engine, orbit, options.of_model(spec)), "image": given,
                   **output_record(self.background, args.fps, self.formats)}
            if spec.vae.decoder != "temporal":
                del run["decode_chunk"]     # its views are the same
            check_same(folder, run)
            return None, None, given, orbit, options
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._locks[number] = ExitStack()
        self._locks[number].enter_context(locked(folder, "--output"))
        image, given["cut_out"], matte = prepare(
            load_image(path), (spec.height, spec.width), args.frame_ratio,
            cut_out=given["matte"], name=path.name)
        return image, matte, given, orbit, options

    def _sample(self, item, prepared):
        """Return the `Views` of a job; None if it is finished."""
        from sgm.diffusion.pipeline import generate_views
        number, (path, seed, folder) = item
        count, (image, matte, given, orbit, options) = len(self.jobs), prepared
        place = f"{number} of {count}: " * (count > 1)
        job_begins(path.name, number, count)
        if image is None:
            self._line.look(wait=True)      # said and listed in the order of the jobs
            say(f"{place}{folder}: finished already, skipped (--overwrite makes it again)")
            self.finished.append(folder)
            return None
        shown = Shown(self.args, self.spec, folder, compiles=self._compiles or count == 1,
                      on_step=self.on_step, on_stage=self._line.look)
        shown.say(f"{place}{path.name}, seed {seed}: {given['cut_out']}")
        if "elevation_estimate" in given:
            shown.say(f"  seen from {given['elevation_estimate']:g} degrees above (estimated)")
        with closing(shown):
            views = generate_views(self.engine, image, orbit, options, on_step=shown.step,
                                   on_begin=shown.begin, on_stage=shown.end)
        self._compiles = False
        views.run["image"], views.matte = given, matte
        return views

    def _save(self, item, views):
        """Write the views folder of a job; return its path."""
        number, (_, _, folder) = item
        saved = views.save(folder, self.background, self.args.fps, self.formats,
                           self.args.overwrite)
        preview_of(folder).unlink(missing_ok=True)
        self._locks.pop(number).close()
        return saved

    def _tell(self, item, saved):
        say(str(saved))
        self.finished.append(item[1][2])

    def _explain(self, item, error):
        """Say why a job failed; raise the error if it ends the command."""
        from sgm.diffusion.guards import PipelineError
        from sgm.views.folder import ViewsError
        number, (path, _, folder) = item
        if isinstance(error, (ImageError, LockedError, PipelineError, ViewsError)):
            is_named = str(error).startswith((f"{path}: ", "--output"))
            say(one_line(str(error) if is_named else f"{path}: {error}"), sys.stderr)
            of_image = isinstance(error, ImageError)
            is_only_one = len(self.paths) == 1 if of_image else self.is_only_one
            if is_only_one and not isinstance(error, PipelineError):
                raise _OnlyOne
        elif isinstance(error, OSError):
            if error.errno != ENAMETOOLONG or self.is_only_one:
                raise ConfigError(f"--output {folder}: cannot be written:"
                                  f" {os_reason(error)}") from None
            # only this image's name is too long
            say(one_line(f"{path}: {folder}: cannot be written: {os_reason(error)}"), sys.stderr)
        else:
            raise error
        if number in self._locks:
            self._locks.pop(number).close()


class _OnlyOne(Exception):
    """What is wrong with the only job of the command has been said."""


def preview_of(folder):
    """Return the path of the preview of a folder that will be written, next to it."""
    return folder.with_name(folder.name + ".preview.png")


class Shown:
    """What the terminal shows of an image's stages: a spinner or a bar, then a line of figures.

    compiles: whether the stages have to be compiled first. on_step: told of each step, too.
    on_stage: called after each stage.
    """

    def __init__(self, args, spec, folder, compiles, on_step=None, on_stage=None):
        self.steps = args.steps or spec.sampling.steps
        self.preview, self.folder, self.quiet, self.compiles = (args.preview, folder, args.quiet,
                                                                compiles)
        self.bar, self.on_step, self.on_stage = None, on_step, on_stage
        self.compiled = 0.0

    def say(self, text):
        """Print a note."""
        if not self.quiet:
            say(text)

    def begin(self, name):
        """Show that a stage begins."""
        from sgm.ops.compilation import compile_seconds
        self.compiled = compile_seconds()
        waiting = "compiling" if self.compiles else "computing"
        self.bar = Bar(self.steps if name == "sample" else None, name, waiting=waiting,
                       quiet=self.quiet)

    def step(self, i, steps, estimate):
        """Count a step of sampling; write the preview that is due."""
        self.bar.update()
        if self.preview and (i + 1) % self.preview == 0:
            write_preview(self.folder, estimate())
        if self.on_step:
            self.on_step(i, steps, estimate)

    def end(self, name, seconds, peak_gb):
        """Print the figures of a stage."""
        from sgm.ops.compilation import compile_seconds
        self.close()
        compiled = compile_seconds() - self.compiled
        part = f" ({compiled:.2f} s of them compiling)" * (compiled > 0)
        self.say(f"  {name}: {seconds} s{part}, peak {peak_gb} GB")
        if self.on_stage:
            self.on_stage()

    def close(self):
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def write_preview(folder, frames):
    """Write the current estimate as one picture."""
    from sgm.views.images import save_png
    from sgm.views.media import contact_sheet
    save_png(preview_of(folder), contact_sheet(frames, columns=7))


def run(argv=None):
    """Run `main` with errors as one line and an exit code."""
    return exit_code("simple_video_sample.py", main, argv, "interrupted; finished folders stay")


if __name__ == "__main__":
    sys.exit(run())
