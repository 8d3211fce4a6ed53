#!/usr/bin/env python3
"""Convert weights: published files, MindSpore checkpoints, Hugging Face diffusers folders.

  convert.py svd.safetensors svd-diffusers --to diffusers --verify
  convert.py svd-diffusers svd.safetensors --to original --base svd_xt.safetensors
  convert.py sv3d_p.safetensors sv3d_p.ckpt --to mindspore --dtype fp16 --report report.csv
  convert.py svd.safetensors start.safetensors --to safetensors --surgery sv3d_p
  convert.py sv3d_p.safetensors style.safetensors --to safetensors --lora lora.safetensors
  convert.py fine_tuned.safetensors averaged.safetensors --to safetensors --ema

Our parameters have the published names, so that `original` and `safetensors` are the same file, and
published files need no conversion to be used. Keys that nothing uses pass through; a diffusers
folder has no place for them, so what is made from one lacks them, unless --base has them. SV3D in
diffusers form has SVD's names and shapes, and its autoencoder is an AutoencoderKL; the parts load,
but diffusers has no pipeline that runs SV3D.
Keys that are missing, left over or misshapen stop the conversion before anything is written. What
is written appears complete or not at all. Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import sys
import time
from contextlib import closing
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm

from sgm.checkpoints.conversion import (
    SOURCES,
    SUFFIXES,
    check_target,
    plan,
    write,
    write_report,
)
from sgm.checkpoints.identify import VECTOR_KEY
from sgm.common.cli import Arguments, exit_code
from sgm.common.locks import locked
from sgm.common.progress import Bar
from sgm.config.model import DTYPE_NAMES, GROUPS

SURGERY = ("sv3d_p", "sv3d_u")


def parse(argv):
    """Return the parsed arguments."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SRC", type=Path,
        help=".safetensors, MindSpore .ckpt, PyTorch .ckpt, .pt or .bin, or a diffusers folder")
    add("target", metavar="DST", type=Path,
        help="file to write (a folder for --to diffusers, which must not exist)")
    add("--from", dest="source_kind", default="auto", choices=("auto", *SOURCES),
        help="what SRC must be (default: any of these)")
    add("--to", dest="kind", required=True, choices=(*SUFFIXES, "diffusers"),
        help="mindspore: a .ckpt that mindspore.load_checkpoint reads; original, safetensors:"
             " published names")
    add("--config", metavar="NAME|YAML", help="the model (default: identified by its shapes)")
    add("--base", metavar="FILE", type=Path, help="published names; gives what SRC lacks")
    add("--dtype", choices=DTYPE_NAMES, help="type of floating tensors (default: as they are)")
    add("--verify", action="store_true",
        help="read the result back and compare every tensor before it appears")
    add("--report", metavar="CSV", type=Path,
        help="write a row for every key: source, target, shape, dtype, done")
    add("--lora", metavar="FILE", type=Path,
        help="a LoRA of train.py for SRC, fused into its weights; those become fp32 unless --dtype"
        " says otherwise")
    add("--ema", action="store_true",
        help="take the moving average of the weights (EMA) that SRC holds besides them")
    add("--surgery", choices=SURGERY,
        help="SVD weights to the start of an SV3D fine-tuning: the columns of the label embedding"
             " by role (cond_aug kept, angles zero), embedders renumbered, temporal decoder kept")
    return parser.parse_args(argv)


class Bars:
    """Progress bars of the steps of a conversion, one after the other."""

    def __init__(self, total, quiet):
        self.total, self.quiet, self.what, self.bar = total, quiet, None, None

    def advance(self, what, count):
        """Add `count` bytes to the bar of the step `what`."""
        if what != self.what:
            self.close()
            self.what = what
            self.bar = Bar(self.total, what, "B", leave=True, quiet=self.quiet)
        self.bar.update(count)

    def close(self):
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def main(argv=None):
    """Convert as the flags say; return the exit code."""
    args = parse(argv)
    if args.report:
        others = [args.source, args.target, *filter(None, [args.base, args.lora])]
        check_target(args.report, others, ".csv", "for --report")
    made = plan(args.source, args.target, args.kind, args.source_kind, args.config, args.base,
                args.dtype, args.surgery, args.lora, args.ema)
    started = time.perf_counter()
    with locked(args.target), closing(Bars(made.size, args.quiet)) as bars:
        write(made, args.verify, bars.advance)
    seconds = time.perf_counter() - started
    if args.report:
        write_report(made, args.report)
    compared = ", compared with the source" * args.verify
    print(f"{args.source} ({made.store.format}, {made.source.name}) -> {args.target} ({args.kind},"
          f" {made.spec.name}): {made.count} tensors, {made.size / 1e9:.2f} GB in {seconds:.1f}"
          f" s{compared}")
    for note in notes(made, args):
        print(f"  {note}")
    return 0


def notes(made, args):
    """Yield what the user should know about the result, one line each."""
    if args.lora:
        fused = sum(f"LoRA of {args.lora.name} fused" in made.store.origin(key)[1]
                    for key in made.store)
        yield f"{args.lora} fused into {fused} of them"
    if args.surgery:
        yield (f"surgery: {made.store.origin(VECTOR_KEY)[1]}; embedders renumbered,"
               f" {made.spec.vae.decoder} decoder kept")
    if args.base:
        given = sum(f"from {args.base.name}" in made.store.origin(key)[1] for key in made.store)
        yield f"{given} keys from {args.base}"
    if made.left:
        yield (f"{len(made.left)} keys left behind: nothing uses them, and diffusers has no place"
               " for them")
    if made.absent and made.store.format == "diffusers":
        yield (f"{len(made.absent)} published keys are not in it ({made.absent[0]}, ...): nothing"
               " uses them; --base FILE would give them")
    if args.kind == "diffusers" and made.spec.is_orbit:
        yield "SV3D: its parts load in diffusers, but diffusers has no pipeline that runs it"
    groups = {made.spec.unet.norm_groups, made.spec.vae.norm_groups} - {GROUPS}
    if args.kind == "diffusers" and groups:
        yield (f"its norms have {min(groups)} groups, which this program reads from the folder;"
               f" diffusers' own UNet always has {GROUPS} and computes other values")


def run(argv=None):
    """Run `main` with errors as one line and an exit code."""
    return exit_code("convert.py", main, argv, "interrupted; nothing was written")


if __name__ == "__main__":
    sys.exit(run())
