#!/usr/bin/env python3
"""Make training orbits with an orbit model: the data engine of VFusion3D (arXiv 2403.12034).

  synthesize.py clips data/objects64 --config sv3d_p --ckpt sv3d_p.safetensors --out data/made
  synthesize.py learn data/made --lrm lrm_small.safetensors --out filter.safetensors
  synthesize.py keep data/made --lrm lrm_small.safetensors --filter filter.safetensors --out kept

clips: the model turns one view of each object of packed sets (tools/render_orbits.py --pack), or
each image, into an orbit at that view's elevation. Which view is the input, and the noise, follow
from --seed and the object's name. The result is a packed set again, which train.py reads. What is
finished is kept: start again with the same flags to continue. --shard 0/4 makes a quarter, in
OUT/shard_0; of several processes that msrun has started, each makes its own.

learn: trains the filter, a linear SVM on the features of the frames by the encoder of the network
in --lrm. Clips are good if they agree with the true views of their objects, which are rendered:
procedural objects only. --corrupt: good are all, bad are copies that are spoilt on purpose. Half of
the objects, with all their forms, is trained on; of the others it prints the area under the ROC
curve, and those of two baselines: the change between frames, and the coverage of the visual hull,
of which the half that is trained on tells only whether high or low (", low") values are good.

keep: copies the clips that the filter takes for good into another set.
Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import sys
import zlib
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import numpy as np

from sgm.common.cli import (
    MAX_SEED,
    Arguments,
    check_folder,
    exit_code,
    float_range,
    int_range,
    loading,
)
from sgm.common.errors import InputError
from sgm.common.locks import locked
from sgm.common.progress import progress_bar
from sgm.common.ranks import this_rank
from sgm.config.model import MAX_FRAMES, MAX_STEPS, PRECISIONS

STARTS = "starts.npy"       # azimuths of the inputs in the world of their objects, degrees


def shard(text):
    """Return "K/N" as (K, N): the argparse type of --shard."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected K/N as in 0/4, K below N")
    return int(number), int(count)


def parse(argv):
    """Return the flags."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    clips = commands.add_parser("clips", help="images or views of sets to orbits")
    add = clips.add_argument
    add("sources", nargs="+", help="packed sets, or images and folders of them")
    add("--out", type=Path, required=True, help="packed set to make")
    add("--config", default="sv3d_tiny", help="orbit model (default: the embedded sv3d_tiny)")
    add("--ckpt", help="its weights (default: embedded)")
    add("--lora", help="a LoRA of train.py for those weights")
    add("--frames", type=int_range(2, MAX_FRAMES), metavar="T",
        help="views of an orbit, 16 as in VFusion3D or 21 (default: the model's)")
    add("--elevation", type=float_range(-89, 89), nargs=2, default=(0.0, 45.0),
        metavar=("MIN", "MAX"), help="degrees: of sets, views between these may be inputs (default"
        " 0 45); of images, give the one that they have twice, or it is estimated")
    add("--lrm", help="weights of lrm_small, whose estimator tells the elevation of images"
        " (default: the embedded ones, if any)")
    add("--count", type=int_range(1, 10 ** 8), help="make only the first so many")
    add("--steps", type=int_range(1, MAX_STEPS), help="default: the model's")
    add("--seed", type=int_range(0, MAX_SEED), default=0, help="default 0")
    add("--shard", type=shard, metavar="K/N", help="make every N-th, from the K-th on")
    add("--dtype", choices=PRECISIONS, default="fp32", help="precision of the UNet (default fp32)")
    add("--overwrite", action="store_true", help="delete what an earlier run left in --out")
    learn = commands.add_parser("learn", help="train the filter")
    keep = commands.add_parser("keep", help="copy what the filter takes for good")
    for command, text in ((learn, "file to write"), (keep, "packed set to make")):
        command.add_argument("set", type=Path, help="packed set of `clips`")
        command.add_argument("--lrm", required=True, help="weights whose encoder is used")
        command.add_argument("--lrm-config", default="lrm_small", help="their network (default"
                             " lrm_small)")
        command.add_argument("--out", type=Path, required=True, help=text)
    learn.add_argument("--corrupt", action="store_true",
                       help="bad clips are copies that are spoilt on purpose")
    learn.add_argument("--good", type=float_range(0, 1), default=0.5, metavar="SHARE",
                       help="share of the clips, those with the best IoU times PSNR, that are good"
                       " (default 0.5)")
    keep.add_argument("--filter", required=True, help="file of `learn`")
    keep.add_argument("--overwrite", action="store_true", help="delete an earlier set in --out")
    for command in (clips, learn, keep):
        command.add_argument("--device", default="CPU", choices=("CPU", "Ascend"),
                             help="default CPU")
        command.add_argument("--device-id", type=int_range(0, 1023), default=0,
                             help="which NPU (default 0)")
    return parser.parse_args(argv)


class FromSets:
    """One view of each object of packed sets, as it was rendered."""

    lrm = None                  # nothing is estimated

    def __init__(self, places, elevations, seed, size):
        from sgm.train.objects.masked_views import MaskedViews
        self.clips, self.seed, self.size = MaskedViews(places, key="sources"), seed, size
        if self.clips.size % size:
            raise InputError(f"sources: found views of {self.clips.size} pixels, expected a"
                             f" multiple of {size}, the model's")
        self.low, self.high = elevations
        self.names = []
        for clip in self.clips.packed.items:
            file = clip.folder / "names.npy"
            name = str(np.load(file)[clip.row]) if file.exists() else f"{clip.row}"
            self.names.append(name)

    def __call__(self, row):
        """Return (input (S, S, 4) uint8, elevation, azimuth in the object's world) of a row."""
        angles = self.clips.angles[row]
        fit = np.flatnonzero((angles[:, 1] >= self.low) & (angles[:, 1] <= self.high))
        if not len(fit):
            raise InputError(f"--elevation: found no view of {self.names[row]} between"
                             f" {self.low:g} and {self.high:g} degrees, expected some; its views"
                             f" are at {angles[:, 1].min():g} to {angles[:, 1].max():g}")
        rng = np.random.default_rng([self.seed, zlib.crc32(self.names[row].encode())])
        view = rng.choice(fit)
        picture, = self.clips.pictures(row, [view], self.size)
        picture[:3] /= np.maximum(picture[3:], 1e-3)
        rgba = (picture.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
        return rgba, float(angles[view, 1]), float(angles[view, 0])


class FromImages:
    """Images, cut out; from one elevation, or from what an estimator says."""

    def __init__(self, places, elevations, size, lrm):
        from sgm.feedforward.reconstructor import EMBEDDED, load_lrm
        from sgm.views.images import list_images
        self.paths = [path for place in places for path in list_images(place)]
        self.names, self.size, self.model = [path.name for path in self.paths], size, None
        self.elevation, self.lrm = elevations[0], lrm
        if not lrm and elevations[0] != elevations[1]:
            if not EMBEDDED[1].is_file():
                raise InputError(f"--elevation: found {elevations[0]:g} {elevations[1]:g}, expected"
                                 " the one elevation of the images, twice; or give --lrm, which"
                                 " tells it")
            self.lrm = EMBEDDED[1]
        if self.lrm:
            self.model = load_lrm("lrm_small", self.lrm)

    def __call__(self, row):
        """Return (input (S, S, 4) uint8, elevation, 0) of a row."""
        from sgm.views.images import load_image
        from sgm.views.preprocessing import cut_object, recenter
        cut = cut_object(load_image(self.paths[row]), name=self.names[row]).image
        elevation = self.elevation
        if self.model is not None:
            elevation = self.model.elevation_of(cut)
        return np.asarray(recenter(cut, self.size)), elevation, 0.0


def make_clips(args, rank):
    """Make the clips of a `Rank`'s share; return the exit code."""
    from sgm.checkpoints.loading import file_hash
    from sgm.diffusion.pipeline import SampleOptions, generate_views, load_model
    from sgm.render.sets.packing import begin_packed, finish_packed, write_row
    from sgm.views.cameras import Orbit
    number, count = args.shard or (rank.number, rank.count)
    out = (args.out / f"shard_{number}" if count > 1 else args.out).resolve()
    check_folder(out, "--out")
    overrides = [f"num_frames={args.frames}"] if args.frames else []
    engine = load_model(args.config, args.ckpt, args.dtype, overrides, args.lora)
    spec = engine.spec
    if not spec.is_orbit or spec.height != spec.width:
        raise InputError(f"--config {args.config}: found {spec.name}, expected an orbit model of"
                         " square views")
    if all((Path(place) / "clips.npy").is_file() for place in args.sources):
        source = FromSets(args.sources, args.elevation, args.seed, spec.height)
    else:
        source = FromImages(args.sources, args.elevation, spec.height, args.lrm)
    rows = list(range(len(source.names)))[:args.count][number::count]
    if not rows:
        raise InputError(f"--shard {number}/{count}: found nothing for it to do, expected fewer"
                         " shards than objects")
    options = SampleOptions(steps=args.steps).of_model(spec)
    record = {"kind": "synthetic", "model": spec.name, "weights": engine.weights_hash(),
              "size": spec.height, "frames": spec.num_frames, "steps": options.steps,
              "elevation": list(args.elevation), "seed": args.seed, "count": len(rows),
              "dtype": args.dtype, "lora": args.lora and file_hash(args.lora),
              "lrm": source.lrm and file_hash(source.lrm),
              "sources": [Path(place).name for place in args.sources]}
    names = [source.names[row] for row in rows]
    with locked(out, "--out"), progress_bar("clip", args.quiet) as progress:
        begun = begin_packed(out, record, names, spec.num_frames, spec.height, args.overwrite)
        if begun is None:
            print(f"{out}: already holds these {len(rows)} clips")
            return 0
        work, todo = begun
        if not (work / STARTS).exists():
            np.save(work / STARTS, np.zeros(len(rows), np.float32))
        for done, place in enumerate(todo, len(rows) - len(todo) + 1):
            image, elevation, azimuth = source(rows[place])
            seed = zlib.crc32(f"{args.seed}/{names[place]}".encode())
            orbit = Orbit.static(elevation, spec.num_frames)
            views = generate_views(engine, image, orbit,
                                   SampleOptions(seed=seed, steps=args.steps))
            starts = np.load(work / STARTS, mmap_mode="r+")
            starts[place] = azimuth
            starts.flush()
            write_row(work, place, views.rgba(), orbit)
            progress(done, len(rows), None)
        finish_packed(work, out)
    print(f"{out}: {len(rows)} clips")
    return 0


def main(argv=None):
    """Run a command; return the exit code."""
    args = parse(argv)
    with loading():
        import _clip_labels

        from sgm import ops
    rank = this_rank()
    if not rank.count:          # msrun's scheduler
        return 0
    ops.set_device(args.device, args.device_id if rank.device is None else rank.device)
    if args.command == "clips":
        return make_clips(args, rank)
    return (_clip_labels.learn if args.command == "learn" else _clip_labels.keep)(args)


def run(argv=None):
    """Return the exit code of `main`; errors are one line."""
    return exit_code("synthesize.py", main, argv, "interrupted; finished clips stay: start again"
                                                  " with the same flags to continue")


if __name__ == "__main__":
    sys.exit(run())
