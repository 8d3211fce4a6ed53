#!/usr/bin/env python3
"""Ask the questions of VFusion3D at our scale: what to train a feed-forward network on, and how.

  python benchmarks/data_engine.py --true data/true --made data/made --kept data/kept
      --val data/rings128/val --test data/rings128/test --out runs/arms

--true: packed sets of true renders, --made: of tools/synthesize.py clips of the same objects,
--kept: what its filter keeps; all of as many views of one size (tools/render_orbits.py --frames
21). --val, --test: ring sets of other objects. Every arm makes the same number of steps of the
recipe lrm_small, and is measured by benchmarks/feedforward.py on the same objects:

  true, made, both     what it is trained on
  made_then_true       half of the steps each
  kept                 made, without what the filter takes for bad
  one_stage            true, at full size from the beginning
  no_opacity           true, without the loss of the opacity
  no_camera_noise      true, told exact cameras

--arm NAME chooses some of them; "250 data=[data/true250]" is one of your own. What is trained or
measured already is kept: start again with the same flags to continue. An arm that was begun with
other flags is refused. Arms are compared with `true` if that is among the arms or in --out.
Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
from sgm.common.cli import Arguments, check_folder, exit_code, int_range  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.records import described, differing  # noqa: E402

FIRST = "true"          # the arm that the others are compared with
TABLE = "table.txt"     # of benchmarks/feedforward.py
STATE, WEIGHTS = "state.safetensors", "averaged.safetensors"
SETTINGS, MEASURED = "arm.json", "measured.json"    # what an arm is trained, and was measured, with


def arms_of(args):
    """Return {name: [(share of the steps, changes of the recipe), ...]} of the arms to run."""
    def data(*places):
        return f"data=[{','.join(place for group in places for place in group)}]"

    true, made, kept = args.true, args.made or [], args.kept or []
    known = {
        "true": [(1, [data(true)])], "made": [(1, [data(made)])],
        "both": [(1, [data(true, made)])], "made_then_true": [(0.5, [data(made)]),
                                                              (0.5, [data(true)])],
        "kept": [(1, [data(kept)])], "one_stage": [(1, [data(true), f"stages=[{args.side}]"])],
        "no_opacity": [(1, [data(true), "mask_weight=0"])],
        "no_camera_noise": [(1, [data(true), "camera_noise=0"])]}
    chosen = {}
    for text in args.arm or known:
        name, *changes = text.split()
        if changes:
            chosen[name] = [(1, [data(true), *changes])]
        elif name in known:
            chosen[name] = known[name]
        else:
            raise InputError(f"--arm {name}: found no such arm, expected one of"
                             f" {', '.join(known)}, or a name and changes of the recipe")
    missing = [name for name, parts in chosen.items() for _, changes in parts
               if "data=[]" in changes]
    if missing and args.arm:
        raise InputError(f"--arm {missing[0]}: needs --made or --kept")
    # those that are measured against the first come after it
    return {name: parts for name, parts in sorted(chosen.items(), key=lambda arm: arm[0] != FIRST)
            if name not in missing}


def call(script, *words):
    """Run one of our scripts. Raises InputError if it fails, KeyboardInterrupt if it was ended."""
    code = subprocess.run([sys.executable, str(ROOT / script), *map(str, words)]).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise InputError(f"{script} {' '.join(map(str, words))}: ended with exit code {code}")


def noted(path):
    """Return what a JSON file of ours says; {} where there is none, or a damaged one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def note(path, values):
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1))


def claim(args, folder, parts):
    """Note what an arm is trained with; return the values of the recipe of each of its parts.

    Raises InputError if the folder holds an arm of other ones.
    """
    settings = {f"part_{number}": [*args.set, *changes, f"val=[{','.join(args.val)}]",
                                   f"steps={round(share * args.steps)}"]
                for number, (share, changes) in enumerate(parts)}
    now, path = {**settings, "model": args.model_set}, folder / SETTINGS
    before = noted(path)
    begun = any((folder / name / STATE).exists() for name in settings)
    if (before or begun) and (names := differing(before, now)):
        raise InputError(f"{folder}: holds an arm trained otherwise"
                         f" ({described(names, before, now)}); give another --out, or the same"
                         " flags")
    note(path, now)
    return settings


def train(args, folder, settings):
    """Train the parts of an arm, of `claim`, one after the other; return the weights."""
    before = None
    for name, values in settings.items():
        output = folder / name
        if (output / STATE).exists():
            call("train.py", "--resume", output)
        else:
            call("train.py", "--model_cfg", "lrm_small", "--train_cfg", "lrm_small", "--output",
                 output, *(word for value in values for word in ("--set", value)),
                 *(word for value in args.model_set for word in ("--model-set", value)),
                 *(["--init", before] if before else []))
        before = output / WEIGHTS
    return before


def measure(args, name, weights):
    """Measure an arm, unless that is done; print its table."""
    folder = args.out / name / "measured"
    first = args.out / FIRST / "measured"
    compared = name != FIRST and (args.out / FIRST / MEASURED).exists()
    if name != FIRST and not compared:
        print(f"{name}: no measured arm {FIRST} in {args.out}, so it is compared with none")
    now = {"test": args.test, "compared": compared}
    if noted(args.out / name / MEASURED) == now and (folder / TABLE).is_file():
        print((folder / TABLE).read_text(encoding="utf-8"), end="")
        return
    call("benchmarks/feedforward.py", *args.test, "--ckpt", weights, "--out", folder,
         *(["--against", first] if compared else []),
         *(word for value in args.model_set for word in ("--set", value)))
    note(args.out / name / MEASURED, now)


def main(argv=None):
    """Train and measure all arms; return the exit code."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--true", nargs="+", required=True, help="packed sets of true renders")
    add("--made", nargs="+", help="packed sets of generated orbits")
    add("--kept", nargs="+", help="those of them that the filter keeps")
    add("--val", nargs="+", required=True, help="ring sets that are measured while training")
    add("--test", nargs="+", required=True, help="ring sets that are measured in the end")
    add("--arm", action="append", metavar="NAME|NAME KEY=VALUE ...", help="arm to run (default all"
        " that there are sets for)")
    add("--steps", type=int_range(2, 10 ** 7), default=3000, help="of each arm (default 3000)")
    add("--side", type=int_range(8, 4096), default=128,
        help="pixels of a side of the one stage of one_stage (default 128)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe of all")
    add("--model-set", action="append", default=[], metavar="KEY=VALUE",
        help="change the network of all")
    add("--out", type=Path, default=Path("runs/arms"), help="folder (default runs/arms)")
    args = parser.parse_args(argv)
    check_folder(args.out, "--out")
    arms = {name: claim(args, args.out / name, parts) for name, parts in arms_of(args).items()}
    for name, settings in arms.items():
        print(f"== {name}", flush=True)
        measure(args, name, train(args, args.out / name, settings))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("data_engine.py", main, None, "interrupted; start again with the same flags"
                                                     " to continue"))
