#!/usr/bin/env python3
"""Time our networks (MindSpore) next to those of diffusers and transformers (PyTorch).

  python benchmarks/bench.py all --json speed.json     every row, quick ones first; an hour or two
  python benchmarks/bench.py unet-24 clip              these rows
  python benchmarks/bench.py all --small               small networks, for a trial
  python benchmarks/bench.py --json speed.json         only print what the file holds
  taskset -c 1 python benchmarks/bench.py ...          on one core and thread

Rows (NAME): clip, vae-256, vae-576, temporal-256 (autoencoder), train (a training step), nerf (that
of the radiance field), triposr, unet-24, unet-40, unet-72 (latents of that side, 21 frames),
run-576 (sv3d_p from picture to views). With --json every row is kept as soon as it is measured, and
is not measured again unless --again is given.

It runs from a clone and needs both frameworks:
  pip install -r requirements.txt -r requirements-test.txt -r requirements-dev.txt
or the environment that `make test-all` makes: .venv-dev/bin/python benchmarks/bench.py ...

Both sides compute in float32 on the CPU, with the same random weights, mapped from one file, the
same inputs and the same number of threads (all cores this process may use), each in a process of
its own that is stopped while the other one works. They take turns; where both do not fit in memory
(unet-72, run-576) one process lives at a time. First of all both multiply two matrices; a row says
which share of that speed (the quicker side's) it reaches, for the multiplications that PyTorch's
network makes: ours makes fewer in some places.

Printed are the median seconds of the runs after the first, their ratio ours / torch, the seconds
of the first run (in which ours compiles), the peak of memory of the process's own (what is mapped
from the file of weights not included), the shares, and the relative L2 distance of the outputs.
Of run-576 there is the first run only. The weights go to a temporary file (TMPDIR), up to 9.4 GB.

Exit code: 0 done, 1 a side failed, 2 wrong input or a missing package, 130 interrupted.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "speed")]
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import table  # noqa: E402
import twins  # noqa: E402
from rows import product, rows  # noqa: E402
from sides import Side, SideError, Summed  # noqa: E402

from sgm.common.cli import Arguments, exit_code, int_range  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402

PACKAGES = ("mindspore", "torch", "diffusers", "transformers", "safetensors")


class Counted:
    """A task of PyTorch whose first call counts the operations of products and convolutions."""

    def __init__(self, task):
        self.task, self.flops = task, None

    def __call__(self):
        if self.flops is not None:
            return self.task()
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        def attention(query, key, value, *rest, out_shape=None, **more):
            batch, heads, count, width = query
            return 2 * batch * heads * count * key[2] * (width + value[3])

        cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
        with FlopCounterMode(display=False, custom_mapping=cpu) as counter:
            output = self.task()
        # of a sum, each call was made once only
        self.flops = 0 if isinstance(output, Summed) else counter.get_total_flops()
        return output


def torch_side(theirs, case, weights, threads):
    """Return the tasks of the PyTorch side (see `sides.Side`)."""
    import torch

    torch.set_num_threads(threads)
    return {name: Counted(task) for name, task in theirs(case, weights).items()}


def measure(name, row, case, weights, repeat, threads, speed):
    """Return the records of a row, one for each task, {key: record}.

    weights: the path of a file, which is drawn if there is none; speed: operations a second of the
    product, or None: this row is the product.
    """
    pair = sys.modules[type(case).__module__]
    if not weights.exists():
        progress(f"{name}: drawing weights")
        with Side("weights", pair.draw_weights, case, weights):
            pass

    def side(k):
        progress(f"{name}: loading {weights.stat().st_size / 1e9:.2f} GB of weights")
        if k == 0:
            return Side("ours", pair.ours, case, weights)
        return Side("torch", torch_side, pair.theirs, case, weights, threads)

    found = {}
    with ExitStack() as both:
        living = [] if row.alone else [both.enter_context(side(k)) for k in range(2)]
        for task in row.targets:
            runs = found[task] = ([], [])
            # the first run is a run of its own; alone, every process has its first
            for turn in range(repeat + (row.warm and not row.alone)):
                for k in range(2):
                    progress(f"{name}: {task}, turn {turn + 1}, {('ours', 'torch')[k]}")
                    if living:
                        runs[k].append([living[k].run(task)])
                    else:
                        with side(k) as one:
                            runs[k].append([one.run(task) for _ in range(1 + row.warm)])
    progress("")
    return {f"{name} {task}": record(f"{row.title}: {task}", runs, row, task, speed)
            for task, runs in found.items()}


def record(what, runs, row, task, speed):
    """Return what is kept of a task; runs: of each side, the Results of each turn."""
    if row.alone:
        timed = [[turn[-1].seconds for turn in side] for side in runs]
    else:
        timed = [[turn[-1].seconds for turn in side[row.warm:]] for side in runs]
    seconds = [statistics.median(side) for side in timed]
    last = [side[-1][-1] for side in runs]
    flops = max(turn[-1].flops for turn in runs[1])
    error = None
    if last[1].output.size:
        error = twins.relative_error(last[0].output, last[1].output)
    return {"what": what, "seconds": seconds, "ratio": seconds[0] / seconds[1], "runs": timed,
            "first_seconds": [side[0][0].seconds for side in runs],
            "own_gb": [max(turn[-1].peak for turn in side) / 1e9 for side in runs],
            "gflop": flops / 1e9, "gflop_per_second": speed and speed / 1e9,
            "share": [flops / value / speed for value in seconds] if speed and flops else None,
            "error": error, "aims": row.targets[task],
            "when": time.strftime("%Y-%m-%d")}


def progress(text: str) -> None:
    """Show one line on a terminal's stderr, which the next one overwrites."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def read(path, conditions):
    """Return the records of a file of --json, {} if there is none. Raises InputError."""
    if path is None or not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        differing = [f"{key} {kept[key]}" for key in conditions if kept[key] != conditions[key]]
        records = kept["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"--json {path}: found something else, expected what this command has"
                         " written; name another file") from None
    if differing:
        raise InputError(f"--json {path}: found {', '.join(differing)}, expected"
                         f" {', '.join(f'{key} {conditions[key]}' for key in conditions)}; name"
                         " another file")
    return records


def parse(argv) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="NAME", help="rows to measure, or all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what is measured in FILE")
    parser.add_argument("--again", action="store_true", help="measure also what FILE holds")
    parser.add_argument("--repeat", type=int_range(1, 1000), metavar="N",
                        help="timed runs of each side (default: by row, 1 to 15)")
    parser.add_argument("--small", action="store_true", help="small networks, for a trial")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    args = parser.parse_args(argv)
    known = rows()
    for name in args.rows:
        if name != "all" and name not in known:
            parser.error(f"NAME: found {name}, expected all or of {', '.join(known)}")
    if not args.rows and args.json is None:
        parser.error(f"NAME: found none, expected all or of {', '.join(known)}")
    return args


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
    conditions = {"threads": threads, "small": args.small}
    known = rows()
    kept = read(args.json, conditions)
    wanted = list(known) if "all" in args.rows else args.rows
    wanted = [name for name in wanted
              if args.again or not any(key.split()[0] == name for key in kept)]
    code, speed = 0, None

    def keep(found):
        kept.update(found)
        if args.json is not None:
            with atomic(args.json) as path:
                path.write_text(json.dumps({**conditions, "rows": kept}, indent=1) + "\n",
                                encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in ["product", *wanted] if wanted else []:
            row = product() if name == "product" else known[name]
            case = row.small if args.small else row.case
            weights = Path(folder) / getattr(case, "network", name)
            for other in Path(folder).iterdir():
                if other != weights:            # rows of one network follow one another
                    other.unlink()
            try:
                found = measure(name, row, case, weights, args.repeat or row.repeat, threads, speed)
            except SideError as error:          # the other rows do not need it
                print(f"bench.py: {name}: {error}", file=sys.stderr)
                code = 1
                weights.unlink(missing_ok=True)
                if name == "product":
                    break
                continue
            if name == "product":
                only, = found.values()
                speed = 1e9 * only["gflop"] / min(map(min, only["runs"]))
                only["share"] = [only["gflop"] * 1e9 / x / speed for x in only["seconds"]]
                only["gflop_per_second"] = speed / 1e9
            keep(found)
    order = ["product", *known]
    records = [kept[key] for key in sorted(kept, key=lambda key: order.index(key.split()[0]))]
    cores = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    print(f"float32, threads {threads} (cores {cores}){', small networks' * args.small}")
    print(table.markdown(records) if args.markdown else table.plain(records))
    return code


def run(argv=None) -> int:
    """Run `main` with errors as one line and an exit code."""
    return exit_code("bench.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
