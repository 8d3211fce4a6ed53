#!/usr/bin/env python3
"""Train variants of a small autodecoder, one setting changed in each, and measure them.

  python benchmarks/autodecoder/ablations.py --data data/rings64 --out runs/ablations
  python benchmarks/autodecoder/ablations.py --data data/rings64 --out runs/ablations --only hash \\
      --set steps=4000

Stage 1 of each is trained by train.py, all with the same rays in a step, and then measured by
reconstruction.py on the views that were held out. `wide` trains stage 2 of `plain` with latents of
a standard deviation of 1 in place of 0.5, beside `usual`; generation.py measures these. The same
command continues.
Exit code: 0 done, 2 wrong input, 130 interrupted (finished parts are kept).
"""
import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from _objects import ROOT

# isort: split
from sgm.common.cli import Arguments, check_folder, exit_code

# By name: settings of the recipe, of the model.
FIRST = {"plain": ([], []), "one_view": (["views=1", "crop=32"], []),
         "short": ([], ["embedding.length=64"]),
         "attention": ([], ["volume.attention=[8,16]", "volume.head_width=16"]),
         "hash": ([], ["embedding.books=32", "embedding.bits=7"])}
SECOND = {"usual": ([], []), "wide": ([], ["diffusion.latent_std=1"])}


def run(script, *flags):
    """Run a script of this checkout; end with its exit code if it fails."""
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    print(shlex.join(command[1:]), flush=True)
    code = subprocess.run(command).returncode
    if code:
        sys.exit(code)


def train(folder, recipe, settings, model_settings, *more):
    """Train in a folder, or continue there."""
    if (folder / "state.safetensors").exists():
        return run("train.py", "--resume", folder)
    changes = [flag for name, values in (("--set", settings), ("--model-set", model_settings))
               for value in values for flag in (name, value)]
    return run("train.py", "--model_cfg", "autodecoder_small", "--train_cfg", recipe, "--output",
               folder, *changes, *more)


def main(argv=None):
    parser = Arguments(prog="ablations.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", nargs="+", required=True, help="packed sets of 128 objects")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the runs")
    add("--only", nargs="+", choices=(*FIRST, *SECOND), default=(*FIRST, *SECOND),
        help="some of the variants (default all); the second stage needs plain")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="of all recipes")
    args = parser.parse_args(argv)
    check_folder(args.out, "--out")
    for name in args.only:
        folder = args.out / name
        settings, model_settings = (FIRST | SECOND)[name]
        if name in SECOND:
            train(folder, "autodecoder_diffusion", [*args.set, *settings], model_settings,
                  "--init", args.out / "plain" / "averaged.safetensors")
            continue
        data = f"data=[{','.join(args.data)}]"
        train(folder, "autodecoder_small", [data, *args.set, *settings], model_settings)
        run("benchmarks/autodecoder/reconstruction.py", "--ckpt", folder / "averaged.safetensors",
            "--data", *args.data, "--out", args.out / f"{name}_measured")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("ablations.py", main))
