#!/usr/bin/env python3
"""One image (or a folder of them) to views on an orbit, or to a video.

  python simple_video_sample.py --image photo.jpg                  # the embedded small model: toy shapes, 64 pixels
  python simple_video_sample.py --config configs/sv3d_p.yaml --ckpt sv3d_p.safetensors --image photo.jpg --elevation 10

Each image and seed becomes a folder OUTPUT/<image>_<seed> with 000.png ..., transforms.json, views.mp4, contact.png and
run.json; finished folders are skipped when the command is run again.
A single image gives the memory of each stage back before the next; several keep what was compiled for the next image.
Exit code: 0 done, 1 some images failed, 2 wrong input, 130 interrupted (finished folders stay).
"""
import argparse
import sys
from pathlib import Path

from sgm.cameras import AZIMUTH_SIGN, Orbit
from sgm.config import ConfigError
from sgm.errors import exit_code
from sgm.images import ImageError, list_images, load_image, parse_background, prepare
from sgm.transforms import CameraError


def seeds(text):
    """"0-3,7" -> [0, 1, 2, 3, 7]."""
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    if not numbers:
        raise argparse.ArgumentTypeError(f"found {text}, expected numbers and rising ranges as in 0-3,7")
    return numbers


def degrees(text):
    """"0,17.1,34.3" -> floats."""
    return [float(part) for part in text.split(",")]


def positive(text):
    """A whole number of at least 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least 1")
    return int(text)


def ratio(text):
    """A number above 0, at most 1."""
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0 and at most 1")
    return float(text)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("input and output").add_argument
    add("--image", required=True, metavar="PATH", help="image file or folder (png, jpg, webp, bmp)")
    add("--config", default=None, metavar="NAME|YAML", help="model: sv3d_u, sv3d_p, svd, svd_xt, a YAML file of ours or of"
        " the reference (default: the embedded sv3d_tiny)")
    add("--ckpt", default=None, metavar="FILE", help="weights: published .safetensors as it is, ours, or .ckpt")
    add("--output", default="outputs", metavar="DIR", help="default outputs")
    add("--overwrite", action="store_true", help="make finished folders anew")
    add("--format", default="mp4,gif,png", metavar="LIST", help="what to write beside the views: any of mp4, gif, png"
        " (contact sheet and orbit plot); default all")
    add("--background", default="transparent", metavar="transparent|white|R,G,B", help="of the saved views; default"
        " transparent, the silhouette estimated from the generated white")
    add("--fps", type=positive, default=6, help="frames per second of the video, and what svd is told; default 6")
    add("--preview", type=int, default=0, metavar="N", help="write OUTPUT/<image>_<seed>.preview.png every N steps;"
        " default 0, never")
    add = parser.add_argument_group("the object in the image (orbit models)").add_argument
    add("--no-matte", action="store_true", help="use the image as it is: do not cut the object out")
    add("--frame-ratio", type=ratio, default=None, metavar="R", help="object's larger side / frame side; default: the"
        " image's larger side makes the frame")
    add = parser.add_argument_group("cameras (orbit models)").add_argument
    add("--elevation", type=float, default=10.0, metavar="DEG", help="of the input view, above the horizon; default 10."
        " sv3d_u is not told it: it only labels the cameras")
    add("--orbit", default="static", metavar="static|dynamic|sine-A|FILE.json", help="default static; dynamic: random as in"
        " the paper, by seed; sine-30: elevation + 30 sin(azimuth)")
    add("--elevations", type=degrees, default=None, metavar="LIST", help="degrees, one per view, input view last")
    add("--azimuths", type=degrees, default=None, metavar="LIST", help="degrees, ascending, input view last")
    add("--azimuth-sign", type=int, choices=(1, -1), default=AZIMUTH_SIGN, help="1: views go counter-clockwise seen from"
        f" above (camera to its right), -1: clockwise; default {AZIMUTH_SIGN}")
    add("--num-frames", type=positive, default=None, metavar="T", help="default: the model's (21 for SV3D)")
    add = parser.add_argument_group("sampling").add_argument
    add("--seeds", type=seeds, default=[23], metavar="LIST", help="e.g. 0-3,7; default 23")
    add("--steps", type=positive, default=None, help="default: the model's (SV3D 50, svd 25, svd_xt 30, sv3d_tiny 25)")
    add("--sampler", choices=("euler", "heun", "dpmpp2m"), default=None, help="default euler")
    add("--guidance", type=float, nargs=2, default=None, metavar=("MIN", "MAX"), help="scale at the least and the most"
        " guided frame; default: the model's (SV3D 1 2.5)")
    add("--size", default=None, metavar="S|HxW", help="pixels of a frame; default: the model's (576, svd 576x1024)")
    add("--motion-bucket", type=int, default=127, help="amount of motion, 0-255 (svd only); default 127")
    add("--cond-aug", type=float, default=None, metavar="SIGMA", help="noise added to the condition image; default: the"
        " model's (SV3D 1e-5, svd 0.02)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the model's configuration")
    add = parser.add_argument_group("device and memory").add_argument
    add("--device", choices=("CPU", "Ascend"), default="CPU", help="default CPU")
    add("--device-id", type=int, default=0, help="which NPU; default 0")
    add("--mode", choices=("graph", "pynative"), default="graph", help="pynative: operator by operator, for debugging")
    add("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the UNet; the rest is float32; default fp32")
    add("--decode-chunk", type=positive, default=7, metavar="T", help="frames decoded at once; default 7. The temporal"
        " decoder of svd sees one chunk as one video, so its result depends on it; the image decoder's does not")
    add("--sequential-cfg", action="store_true", help="both sides of the guidance one after the other: half the memory")
    return parser.parse_args(argv)


def overrides(args):
    """--size and --num-frames as changes of the model's configuration."""
    changes = list(args.set)
    if args.size:
        height, _, width = args.size.partition("x")
        changes += [f"height={height}", f"width={width or height}"]
    views = args.azimuths or args.elevations
    if args.num_frames or views:
        changes.append(f"num_frames={args.num_frames or len(views)}")
    return changes


def cameras(args, num_frames, seed):
    """The orbit that the flags describe. Raises CameraError."""
    if args.azimuths or args.elevations:
        even = Orbit.static(args.elevation, num_frames)
        orbit = Orbit.from_lists(args.azimuths or even.azimuths_deg, args.elevations or even.elevations_deg)
    elif args.orbit == "static":
        orbit = Orbit.static(args.elevation, num_frames)
    elif args.orbit == "dynamic":
        orbit = Orbit.dynamic(seed, args.elevation, num_frames)
    elif args.orbit.startswith("sine-"):
        try:
            amplitude = float(args.orbit[5:])
        except ValueError:
            raise CameraError(f"--orbit {args.orbit}: expected a number of degrees after sine-, as in sine-30") from None
        orbit = Orbit.sine(amplitude, args.elevation, num_frames)
    else:
        orbit = Orbit.from_file(args.orbit)
    return orbit.with_sign(args.azimuth_sign)


def main(argv=None):
    args = parse(argv)
    from tqdm import tqdm

    from sgm import ops
    from sgm.pipeline import EMBEDDED, PipelineError, generate, load_model
    from sgm.views import FORMATS, is_finished

    formats = args.format.split(",")
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ConfigError(f"--format: found {', '.join(sorted(unknown))}, expected any of {', '.join(FORMATS)}")
    background = parse_background(args.background)
    paths = list_images(args.image)
    ops.set_device(args.device, args.device_id, args.mode)
    if bool(args.config) != bool(args.ckpt):
        raise ConfigError(f"--{'ckpt' if args.config else 'config'} is missing: a model needs both; without either the"
                          " embedded small model is used")
    model, ckpt = (args.config, args.ckpt) if args.config else EMBEDDED
    engine = load_model(model, ckpt, args.dtype, overrides(args))
    spec = engine.spec
    if spec.is_orbit:
        cameras(args, spec.num_frames, args.seeds[0])  # wrong cameras are told before any work
    failed = 0
    for path in paths:
        for seed in args.seeds:
            folder = Path(args.output) / f"{path.stem}_{seed}"
            if is_finished(folder) and not args.overwrite:
                print(f"{folder}: finished already, skipped (--overwrite makes it anew)")
                continue
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                image, how = prepare(load_image(path), (spec.height, spec.width), args.frame_ratio,
                                     cut_out=spec.is_orbit and not args.no_matte)
                print(f"{path.name}, seed {seed}: {how}")
                orbit = cameras(args, spec.num_frames, seed) if spec.is_orbit else None
                with tqdm(total=args.steps or spec.sampling.steps, unit="step", leave=False) as bar:
                    def on_step(i, steps, estimate, bar=bar, folder=folder):
                        bar.update()
                        if args.preview and (i + 1) % args.preview == 0:
                            write_preview(folder, estimate())

                    keep = len(paths) * len(args.seeds) > 1
                    views = generate(
                        engine, image, orbit, seed, args.steps, args.sampler, args.guidance, args.cond_aug, args.fps,
                        args.motion_bucket, args.decode_chunk, args.sequential_cfg, keep, on_step,
                        lambda name, seconds, peak_gb: bar.write(f"  {name}: {seconds} s, peak {peak_gb} GB"))
                print(views.save(folder, background, args.fps, formats))
            except (ImageError, PipelineError) as error:
                failed += 1
                print(f"{path}: {error}", file=sys.stderr)
                if len(paths) == 1 and isinstance(error, ImageError):
                    return 2
            except OSError as error:
                raise ConfigError(f"--output {folder}: cannot be written ({error.strerror}); free space or give another"
                                  " folder") from None
    return 1 if failed else 0


def write_preview(folder, frames):
    """The current estimate as one picture beside the folder to come."""
    from sgm.images import contact_sheet, save_png
    save_png(folder.with_name(folder.name + ".preview.png"), contact_sheet(frames, columns=7))


def run(argv=None):
    """`main` with errors as one line and an exit code."""
    return exit_code("simple_video_sample.py", main, argv, "interrupted; finished folders stay")


if __name__ == "__main__":
    sys.exit(run())
