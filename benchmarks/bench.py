#!/usr/bin/env python3
"""Time our networks (MindSpore) next to those of diffusers and transformers (PyTorch).

  python benchmarks/bench.py unet             one evaluation of SVD's UNet, 21 frames of 24 x 24
  python benchmarks/bench.py vae --frames 7   encoder, and temporal decoder on one video
  python benchmarks/bench.py clip --width small       a small image tower, for a trial
  python benchmarks/bench.py train            a training step of a video UNet, 21 frames of 16 x 16
  python benchmarks/bench.py nerf             a training step of the radiance field, both encodings
  taskset -c 1 python benchmarks/bench.py ...         on one core and thread

It runs from a clone and needs both frameworks:
  pip install -r requirements.txt -r requirements-test.txt -r requirements-dev.txt
or the environment that `make test-all` makes: .venv-dev/bin/python benchmarks/bench.py ...

Each kind of comparison is a file with the same functions (inputs, draw_weights, ours, theirs):
  twins.py    unet, vae, clip: the same network twice, from one file of weights
  steps.py    train: loss, gradient, clipping, AdamW and moving average, as train.py makes a step
  fields.py   nerf: the same rays, samples and encoding, made by the same code on the host; the
              other side is ours too, written with PyTorch and its Adam
  sides.py    runs one side in a process of its own, which is stopped while the other one works

Both sides compute in float32 on the CPU, with the same random weights and inputs and the same
number of threads (all cores this process may use), and take turns. Printed are the median seconds
of the runs after the first, the ratio ours / torch, the seconds of the first run (in which ours
compiles), peak resident memory (weights included: both sides map one file), and the relative L2
distance of the outputs. The weights go to a temporary file (TMPDIR), 6.1 GB for the full unet,
and are drawn again each time (a minute).

Exit code: 0 done, 1 a side failed, 2 wrong input or a missing package, 130 interrupted.
"""
from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import fields  # noqa: E402
import steps  # noqa: E402
import twins  # noqa: E402
from sides import Side, SideError  # noqa: E402

from sgm.common.cli import Arguments, exit_code  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.config.reconstruction import NerfSpec  # noqa: E402

PACKAGES = ("mindspore", "torch", "diffusers", "transformers", "safetensors")


Case = twins.Case | steps.Case | fields.Case


def torch_side(theirs, case, weights, threads):
    """Return the tasks of the PyTorch side (see `sides.Side`)."""
    import torch

    torch.set_num_threads(threads)
    return theirs(case, weights)


def make_case(args) -> Case:
    """Return the comparison that the command line asks for. Raises InputError."""
    if args.network == "nerf":
        if args.rays % 4:
            raise InputError(f"--rays: found {args.rays}, expected a multiple of 4")
        return fields.Case(fields.tasks(args.rays, args.samples))
    spec = {"full": twins.FULL, "small": twins.SMALL, "train": steps.TRAIN}[args.width]
    if args.network in ("unet", "train") and args.latent % spec.unet.down_factor:
        raise InputError(f"--latent: found {args.latent}, expected a multiple of"
                         f" {spec.unet.down_factor} for the {args.width} unet")
    if args.network == "train":
        return steps.case_of(spec, args.frames, args.latent)
    return twins.Case(args.network, spec, args.frames, args.latent, args.latent)


def title(case: Case) -> str:
    """Return what is compared, in words."""
    if isinstance(case, fields.Case):
        settings = next(iter(case.settings.values()))
        return f"nerf: {settings.rays} rays of {settings.samples} samples"
    if isinstance(case, steps.Case):
        model = case.model
        return f"training step: frames {model.frames}, latents {model.height} x {model.width}"
    size = "" if case.network == "clip" else f", latents {case.height} x {case.width}"
    width = "small" if case.spec is twins.SMALL else "full"
    return f"{case.network}: width {width}, frames {case.frames}{size}"


def measure(case: Case, repeat: int, threads: int) -> list[list[str]]:
    """Return the rows of the table, one for each task."""
    rows, pair = [], sys.modules[type(case).__module__]     # pair: twins, steps or fields
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        weights = Path(folder) / "weights.safetensors"
        progress("drawing weights")
        with Side("weights", pair.draw_weights, case, weights):
            pass
        progress(f"loading {weights.stat().st_size / 1e9:.2f} GB of weights")
        with Side("ours", pair.ours, case, weights) as ours, \
                Side("torch", torch_side, pair.theirs, case, weights, threads) as torch:
            weights.unlink()        # both have it mapped; in any case nothing is left behind
            sides = ours, torch
            for task in ours.tasks:
                progress(f"{task}: first run")
                first = [side.run(task) for side in sides]
                runs = []
                for i in range(repeat):
                    progress(f"{task}: run {i + 1} of {repeat}")
                    runs.append([side.run(task) for side in sides])
                seconds = [statistics.median(run[k].seconds for run in runs) for k in range(2)]
                last = runs[-1]
                rows.append([task, *(f"{value:.3f}" for value in seconds),
                             f"{seconds[0] / seconds[1]:.2f}",
                             *(f"{result.seconds:.2f}" for result in first),
                             *(f"{result.peak / 1e9:.2f}" for result in last),
                             f"{twins.relative_error(last[0].output, last[1].output):.1e}"])
    progress("")
    return rows


def progress(text: str) -> None:
    """Show one line on a terminal's stderr, which the next one overwrites."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def table(rows: list[list[str]]) -> str:
    """Return the rows under their heading; all columns but the first are right-aligned."""
    rows = [["", "ours s", "torch s", "ratio", "first ours s", "first torch s", "peak ours GB",
             "peak torch GB", "rel. error"], *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.rjust(width) if i else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))) for row in rows)


def positive(text: str) -> int:
    """Return an integer of at least 1: an argparse type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected at least 1")
    return value


def parse(argv) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="network", required=True)
    defaults = argparse.ArgumentDefaultsHelpFormatter
    # unet, vae, clip
    for network, text, frames in (
            ("unet", "one evaluation of the video UNet (1.52 billion parameters)", 21),
            ("vae", "encoder, and temporal decoder, of one video", 7),
            ("clip", "the image tower (0.63 billion parameters)", 1)):
        command = commands.add_parser(network, help=text, description=text,
                                      formatter_class=defaults)
        command.add_argument("--width", choices=("full", "small"), default="full",
                             help="full: as published (svd); small: a few channels, for a trial")
        command.add_argument("--frames", type=positive, default=frames, metavar="N",
                             help={"clip": "images in a batch"}.get(network, "frames of the video"))
        if network == "clip":
            command.set_defaults(latent=0)
        else:
            command.add_argument("--latent", type=positive, default=24, metavar="N",
                                 help="side of the square latents; one is 8 pixels at full width")
        command.set_defaults(repeat=3)
    # train
    text = "a training step of a video UNet (57.6 million parameters)"
    command = commands.add_parser("train", help=text, description=text, formatter_class=defaults)
    command.add_argument("--width", choices=("train", "small"), default="train",
                         help="train: the network above; small: fewer channels, for a trial")
    command.add_argument("--frames", type=positive, default=21, metavar="N",
                         help="frames of the clip")
    command.add_argument("--latent", type=positive, default=16, metavar="N",
                         help="side of the square latents")
    command.set_defaults(repeat=7)
    # nerf
    text, default = "a training step of the radiance field, dense and hash grid", NerfSpec()
    command = commands.add_parser("nerf", help=text, description=text, formatter_class=defaults)
    command.add_argument("--rays", type=positive, default=default.rays, metavar="N",
                         help="per step, a multiple of 4")
    command.add_argument("--samples", type=positive, default=default.samples, metavar="N",
                         help="per ray")
    command.set_defaults(repeat=15)
    for command in commands.choices.values():
        command.add_argument("--repeat", type=positive, default=command.get_default("repeat"),
                             metavar="N", help="timed runs of each side after the first")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    args = parse(argv)
    threads = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GLOG_v", "3")        # MindSpore's own warnings
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)}: not installed; pip install"
                         " -r requirements-test.txt -r requirements-dev.txt")
    case = make_case(args)
    try:
        rows = measure(case, args.repeat, threads)
    except SideError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1
    cores = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    print(f"{title(case)}, float32, threads {threads} (cores {cores}), median of {args.repeat}")
    print(table(rows))
    return 0


def run(argv=None) -> int:
    """Run `main` with errors as one line and an exit code."""
    return exit_code("bench.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
