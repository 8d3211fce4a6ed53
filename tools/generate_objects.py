#!/usr/bin/env python3
"""New objects of an autodecoder, as meshes and views; or the object that given views show.

  generate_objects.py --ckpt FILE --count 16 --steps 64 --output outputs/objects
  generate_objects.py --ckpt FILE --seeds 3,8-11 --label tower
  generate_objects.py --ckpt FILE --between 3 8 --count 9       from one seed to another
  generate_objects.py --ckpt FILE --fit outputs/cup             an unseen object of views
  generate_objects.py --ckpt FILE --fit outputs/cup --fit-views 0,5,10

FILE: the averaged.safetensors of train.py, of stage 2 (autodecoder_diffusion); for --fit that of
stage 1 will do; without --ckpt the embedded weights of autodecoder_small, if there are any. Each
object becomes a folder OUTPUT/seed_<seed>, OUTPUT/between_<A>_<B>_<number> or OUTPUT/fit_<name>
with mesh.glb (y up), its views 000.png ... (RGBA), transforms.json and run.json, which
views_to_mesh.py and others read; --fit adds fitted.png, the given views above the fitted ones.
OUTPUT/sheet.png shows all objects. What is finished is kept: start again with the same flags to
continue.
--fit looks for the embedding whose volume looks like the views, which need alpha or a plain
background, and cameras of our world: an object inside [-0.5, 0.5]^3.
Exit code: 0 done, 1 some objects failed, 2 wrong input, 130 interrupted (finished objects stay; a
fit is written as far as it came).
"""
import argparse
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
from _fit_object import Fitting, common_record, digest

from sgm.common.cli import (
    MAX_SEED,
    Arguments,
    check_folder,
    exit_code,
    float_range,
    int_range,
    loading,
    seed_list,
    until_stopped,
)
from sgm.common.errors import InputError
from sgm.common.locks import locked
from sgm.common.progress import Bar, say

MOST_ROWS = 64          # objects on the sheet
VIEWS = 21


def parse(argv):
    """Return the parsed arguments. Raises InputError for flags that do not fit together."""
    parser = Arguments(prog="generate_objects.py", description=__doc__,
                       formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("model").add_argument
    add("--model", default="autodecoder_small", metavar="NAME|YAML",
        help="a name in configs/autodecoder or a YAML file (default autodecoder_small)")
    add("--ckpt", metavar="FILE", help="weights (default: embedded ones of autodecoder_small, if"
        " there are any); random: draw some, for tests")
    add("--model-set", action="append", default=[], metavar="KEY=VALUE",
        help="change one value of the model's configuration")
    add = parser.add_argument_group("what to make").add_argument
    add("--count", type=int_range(1, 100_000), help="objects: seeds 0, 1, ... (default 16); with"
        " --between how many, both ends included (default 9)")
    add("--seeds", type=seed_list, metavar="LIST", help="which seeds, as in 0-15,20")
    add("--between", type=int_range(0, MAX_SEED), nargs=2, metavar=("A", "B"),
        help="objects on the way from seed A to seed B, sampled without added noise")
    add("--fit", type=Path, metavar="FOLDER", help="views folder or transforms.json to fit")
    add("--fit-views", type=seed_list, metavar="LIST",
        help="which of its views, counted from 0 (default: all)")
    add("--fit-steps", type=int_range(1, 100_000), help="steps of the optimization (default 300)")
    add = parser.add_argument_group("condition, of a model that was trained with one").add_argument
    add("--label", help="name of a class")
    add("--image", metavar="FILE", help="picture of an object, which is cut out")
    add("--tower-ckpt", metavar="FILE",
        help="weights of the model whose tower sees --image (default: embedded ones)")
    add("--text", metavar="FILE.npy", help="embedding of a text, (tokens, width) numbers, of the"
        " encoder that the model was trained with")
    add("--guidance", type=float_range(0, 100), help="scale (default: the model's, 3; 1: none)")
    add = parser.add_argument_group("sampling and output").add_argument
    add("--steps", type=int_range(1, 10_000), help="of the sampler (default: the model's, 64)")
    add("--churn", type=float_range(0, 1e6),
        help="noise that the sampler adds (default: the model's, 40); 0: deterministic")
    add("--output", type=Path, default=Path("outputs/objects"), metavar="DIR",
        help="default outputs/objects")
    add("--overwrite", action="store_true",
        help="make finished objects again; what else is in their folders stays")
    add("--size", type=int_range(8, 2048), help="pixels of a view (default: the model's)")
    add("--elevation", type=float_range(-89, 89), default=20.0,
        help="degrees of the views' cameras above the horizon (default 20)")
    add("--device", choices=("CPU", "Ascend"), default="CPU", help="default CPU")
    add("--device-id", type=int_range(0, 1023), default=0, help="which NPU (default 0)")
    add("--mode", choices=("graph", "pynative"), default="graph",
        help="pynative: operator by operator, for debugging")
    args = parser.parse_args(argv)
    check(args)
    return args


def check(args):
    """Raise InputError for flags that do not fit together; fill in the seeds."""
    sampling = ("count", "seeds", "between", "label", "image", "text", "guidance", "steps", "churn")
    if args.fit:
        for name in sampling:
            if getattr(args, name) is not None:
                raise InputError(f"--fit: found --{name}, which samples new objects; leave one of"
                                 " them out")
    for name in ("fit_views", "fit_steps"):
        if getattr(args, name) is not None and not args.fit:
            raise InputError(f"--{name.replace('_', '-')}: belongs to --fit; leave it out")
    if args.guidance is not None and not (args.label or args.image or args.text):
        raise InputError(f"--guidance: found {args.guidance:g} without a condition, expected"
                         " --label, --image or --text; leave it out")
    if args.tower_ckpt and not args.image:
        raise InputError("--tower-ckpt: belongs to --image; leave it out")
    if args.between and args.seeds is not None:
        raise InputError("--between: found --seeds, expected the two seeds alone; leave it out")
    if args.between and args.between[0] == args.between[1]:
        raise InputError(f"--between: found seed {args.between[0]} twice, expected two different"
                         " ones")
    if args.between and args.churn:
        raise InputError(f"--between: found --churn {args.churn:g}, expected none: added noise"
                         " would hide the way from one seed to the other")
    if args.between and args.count is not None and args.count < 2:
        raise InputError("--between: found --count 1, expected both ends: 2 or more")
    if args.seeds is not None and args.count not in (None, len(args.seeds)):
        raise InputError(f"--count {args.count}: --seeds names {len(args.seeds)}; leave one of them"
                         " out")
    if args.between:
        args.seeds, args.count = args.between, args.count or 9
    elif args.seeds is None:
        args.seeds = list(range(args.count or 16))


def main(argv=None):
    """Make what the flags ask for; return the exit code."""
    args = parse(argv)
    check_folder(args.output, "--output")
    with loading():
        from sgm import ops
        from sgm.autodecoder.pipeline import load_autodecoder
        from sgm.views.cameras import Orbit
    ops.set_device(args.device, args.device_id, args.mode)
    objects = load_autodecoder(args.model, args.ckpt, args.model_set)
    orbit = Orbit.static(args.elevation, VIEWS)
    with locked(args.output, "--output"):
        made = Fitting(args, objects, orbit) if args.fit else Sampling(args, objects, orbit)
        code = made.run()
        write_sheet(args.output, made.finished)
    return code


class Sampling:
    """Objects of seeds, or between two. finished: their folders after `run`."""

    def __init__(self, args, objects, orbit):
        from sgm.autodecoder.latents.conditions import condition_of
        self.args, self.objects, self.orbit, self.finished = args, objects, orbit, []
        objects.check_generates()
        settings = objects.spec.diffusion
        self.condition = condition_of(settings.condition, args.label, args.image, args.text,
                                      args.tower_ckpt)
        self.steps = args.steps or settings.steps
        self.guidance = settings.guidance if args.guidance is None else args.guidance
        churn = settings.churn if args.churn is None else args.churn
        self.churn = 0.0 if args.between else churn
        told = None
        if self.condition is not None:
            told = {"label": args.label, "image": args.image, "text": args.text,
                    "guidance": self.guidance, "hash": digest(self.condition)}
        self.record = {**common_record(args, objects), "steps": self.steps, "churn": self.churn,
                       "condition": told}

    def jobs(self):
        """Return {name: what run.json says besides} of all objects."""
        if not self.args.between:
            return {f"seed_{seed:04d}": {"seed": seed} for seed in self.args.seeds}
        first, second = self.args.between
        return {f"between_{first}_{second}_{k:03d}": {"between": [first, second], "place": k,
                                                      "of": self.args.count}
                for k in range(self.args.count)}

    def run(self):
        """Make all objects that are not there yet; return the exit code."""
        from sgm.autodecoder.object_folder import is_made
        from sgm.autodecoder.pipeline import BATCH
        jobs = self.jobs()
        runs = {name: {**self.record, **more} for name, more in jobs.items()}
        todo = [name for name in jobs
                if not is_made(self.args.output / name, runs[name], self.args.overwrite)]
        if len(todo) < len(jobs):
            say(f"{self.args.output}: {len(jobs) - len(todo)} of {len(jobs)} objects are finished"
                " already, skipped")
        self.finished = [name for name in jobs if name not in todo]
        self.batch, failed = min(BATCH, len(todo)), 0
        writing = self.steps // 8 + 1               # as many steps as writing an object may take
        with until_stopped() as stopped, Bar(
                len(todo) * (self.steps + writing), unit="step", quiet=self.args.quiet,
                waiting="compiling the first step" * bool(todo)) as bar:
            for start in range(0, len(todo), self.batch or 1):
                if stopped:
                    break
                some = todo[start:start + self.batch]
                latents = self.sample([jobs[name] for name in some], bar, stopped)
                if latents is None:
                    break
                for name, latent in zip(some, latents):
                    if stopped:
                        break
                    failed += not self.write(name, latent, runs[name], bar)
                    bar.update(writing)
        self.finished = [name for name in jobs if name in self.finished]
        if stopped:
            print("generate_objects.py: interrupted; finished objects stay, the same command"
                  " continues", file=sys.stderr)
            return 130
        return (2 if failed == len(jobs) == 1 else 1) if failed else 0

    def sample(self, jobs, bar, stopped):
        """Return the latents of some jobs; None if it was stopped."""
        count, told = len(jobs), [0]
        # the last ones are filled up to the shape that is compiled
        jobs = [*jobs, *[jobs[-1]] * (self.batch - count)]

        def progress(done, total):
            bar.update((done - told[0]) * count)
            told[0] = done
            if stopped:
                raise KeyboardInterrupt
        try:
            if self.args.between:
                return self.objects.between(
                    *self.args.between, self.args.count, self.steps, self.condition, self.guidance,
                    progress, [job["place"] for job in jobs])[:count]
            return self.objects.sample(
                [job["seed"] for job in jobs], self.steps, self.churn, self.condition,
                self.guidance, progress=progress)[:count]
        except KeyboardInterrupt:
            if not stopped:
                raise
            return None

    def write(self, name, latent, run, bar):
        """Write an object; return whether it worked."""
        from sgm.autodecoder.object_folder import write_object
        try:
            mesh = self.objects.mesh(latent)
        except InputError as error:
            bar.write(f"{name}: {error}", sys.stderr)
            return False
        views = self.objects.render(latent, self.orbit, self.args.size)
        write_object(self.args.output / name, views, self.orbit, mesh, run,
                     overwrite=self.args.overwrite)
        self.finished.append(name)
        if not self.args.quiet:
            bar.write(f"{self.args.output / name}: {len(mesh.faces)} faces")
        return True


def write_sheet(output, names):
    """Write sheet.png, a row of views of each object."""
    import numpy as np

    from sgm.autodecoder.object_folder import views_of
    from sgm.render.procedural import on_white
    from sgm.train.run.validation import captioned
    from sgm.views.images import save_png
    if not names:
        return
    rows = [captioned(name, on_white(views_of(output / name))) for name in names[:MOST_ROWS]]
    save_png(output / "sheet.png", np.concatenate(rows))
    more = f", the first {MOST_ROWS} of {len(names)}" if len(names) > MOST_ROWS else ""
    say(f"{output / 'sheet.png'}: {min(len(names), MOST_ROWS)} objects{more}")


def run(argv=None):
    """Return the exit code of `main`; errors are one line."""
    return exit_code("generate_objects.py", main, argv,
                     "interrupted; finished objects stay, the same command continues")


if __name__ == "__main__":
    sys.exit(run())
