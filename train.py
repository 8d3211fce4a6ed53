#!/usr/bin/env python3
"""Train a model, or fine-tune one.

  python train.py --model_cfg configs/sampling/sv3d_u.yaml --train_cfg --set data=[orbits]
  python train.py --model_cfg sv3d_p --train_cfg configs/train/sv3d_p.yaml --init svd.safetensors
  python train.py --resume runs/sv3d_p
  msrun --worker_num=8 --local_worker_num=8 train.py --model_cfg sv3d_p --train_cfg --distributed

Without a value --train_cfg means the model's own recipe; --set steps=5000 changes one value of it.

--init takes the model's own weights or those of SVD (for SV3D_p also SV3D_u's), which are then
fitted to it. Writes into --output: config.yaml, metrics.csv, curve.png, averaged.safetensors
(sample with it; of a LoRA lora.safetensors), state.safetensors; if data is held out,
best.safetensors and val_<step>.png, true views above generated ones; with tensorboardX installed,
tensorboard/. --resume continues from the state, bit for bit on a CPU, with the model and recipe in
config.yaml; flags given again are compared with these, and may change how long it runs and what it
writes. Of several processes that msrun has started, all end with a line that says why when one is
gone; --resume then continues.
Exit code: 0 done, 2 wrong input or a training that fails, 130 interrupted: Ctrl-C saves first.
"""
import argparse
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import sgm.common.startup  # noqa: F401 - first: Ctrl-C while modules load
from sgm.common.cli import Arguments, check_folder, exit_code, loading
from sgm.common.errors import InputError
from sgm.common.locks import locked
from sgm.common.progress import Bar, each
from sgm.config.model_files import load_trained_spec
from sgm.config.yaml_reader import ConfigError, find_config, load_yaml
from sgm.config.yaml_reader import build as build_config


def parse(argv):
    """Return the flags."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_cfg", default=None, metavar="NAME|YAML",
        help="model: a name (sv3d_u) or a YAML file; needed but for --resume DIR")
    add("--train_cfg", nargs="?", default=None, metavar="NAME|YAML",
        help="recipe: a name or a YAML file of configs/train; without a value the model's own")
    add("--output", default=None, metavar="DIR", help="default runs/<recipe>")
    add("--init", default=None, metavar="FILE",
        help="weights to start from: .safetensors (published or ours), .ckpt of MindSpore or"
             " PyTorch, or a diffusers folder; default: random")
    add("--resume", nargs="?", const=True, default=False, metavar="DIR",
        help="continue the run in DIR, by default --output")
    add("--set", action="append", default=[], metavar="KEY=VALUE",
        help="change one value of the recipe")
    add("--model-set", action="append", default=[], metavar="KEY=VALUE",
        help="change one value of the model")
    add("--dry-run", action="store_true",
        help="say what would be trained and what it takes; load and write nothing")
    add("--device", default="CPU", choices=("CPU", "Ascend"), help="default CPU")
    add("--device-id", type=int, default=0, help="which NPU; default 0")
    add("--distributed", action="store_true",
        help="one of the processes of msrun: each has its own batches of a step")
    args = parser.parse_args(argv)
    if isinstance(args.resume, str):
        if args.output and Path(args.output) != Path(args.resume):
            parser.error(f"--output {args.output}: found another folder than --resume"
                         f" {args.resume}, expected one of them")
        args.output = args.resume
    if not args.model_cfg and not (args.resume and args.output):
        parser.error("--model_cfg is missing: the model to train; --resume DIR needs none")
    return args


def configure(args):
    """Return the model's spec, the recipe and the output folder that the flags name.

    A run is resumed with its own model and recipe; flags given again change them as they would have
    changed those, and are compared later.
    """
    output = args.output
    if not output:
        name = args.train_cfg or load_trained_spec(args.model_cfg, args.model_set).name
        output = f"runs/{find_config(name, 'train').stem}"
    output = Path(output)
    begun = beginning_of(args, output)
    if begun is None:
        spec = load_trained_spec(args.model_cfg, args.model_set)
        recipe = load_recipe(find_config(args.train_cfg or spec.name, "train"), args.set)
        return spec, recipe, output
    spec, recipe, config = begun.model, begun.recipe, output / "config.yaml"
    if args.model_cfg:
        spec = load_trained_spec(args.model_cfg, begun.model_overrides)
    if args.train_cfg:
        recipe = load_recipe(find_config(args.train_cfg, "train"), begun.overrides)
        recipe = replace(recipe, **begun.changes)
    return (build_config(spec, {}, config, args.model_set),
            build_config(recipe, {}, config, args.set), output)


def beginning_of(args, output):
    """Return what began the run to resume, a Beginning; None of a new run, or if flags say all."""
    if not args.resume or args.model_cfg and not (output / "config.yaml").exists():
        return None
    with loading():
        from sgm.train.run.beginning import read_beginning
    return read_beginning(output)


def load_recipe(path, overrides):
    """Return the Recipe of a YAML file with overrides."""
    with loading():
        from sgm.config.recipe import Recipe
    return load_yaml(Recipe, path, overrides)


def plan(spec, recipe, output):
    """Print what a run would train and take; return the exit code."""
    with loading():
        from sgm.config.recipe import OBJECT_TASKS
        from sgm.train.data import Memo, read_clips
        from sgm.train.objects.tasks import PARTS
        from sgm.train.run.plan import check_fit, describe
    check_fit(spec, recipe)
    try:
        clips, trouble = (PARTS[recipe.task].count(spec, recipe) if recipe.task in OBJECT_TASKS
                          else len(read_clips(recipe, spec, Memo())[0][0])), None
    except InputError as error:
        clips, trouble = None, str(error)
    for name, text in describe(spec, recipe, clips):
        print(f"{name:10} {text}")
    if trouble:
        print(f"{'data':10} not yet: {trouble}")
    print(f"{'output':10} {output}")
    return 0


def settings(trainer, origin, output, device):
    """Print the key settings of a run."""
    from sgm.train.run.plan import describe
    lines = {**dict(describe(trainer.engine.spec, trainer.recipe, len(trainer.batches.clips),
                            trainer.world_size)), "weights": origin,
             "output": f"{output}, on {device}"}
    for name, text in lines.items():
        print(f"{name:10} {text}")


def fit(trainer, folder, metrics, stopped, quiet=False):
    """Make steps up to the recipe's last one, or until `stopped` holds something; save at the end.

    Returns whether it was stopped. With several processes the first one writes; the others, without
    `metrics`, make the same steps and validations.
    """
    from sgm.config.recipe import WITH_SHEETS
    from sgm.ops.profiling import peak_gb
    recipe, leads = trainer.recipe, metrics is not None
    # of what is held out, or of what is generated
    draws = recipe.task in WITH_SHEETS and (trainer.held_out or recipe.task == "latent_diffusion")

    def measure(ends, saves):
        """Return {name: number} of this step's validation; write the held-out clips' sheet."""
        if trainer.stopped:
            return {}
        every = recipe.sheet_every if draws else 0
        shows = every and (ends or trainer.done % every == 0)
        # with a sheet both losses, to compare them; otherwise training clips are not worth the time
        compares = shows and trainer.seen is not None
        found = {}
        if trainer.held_out and (saves or compares):
            found["val_loss"] = trainer.validate()
        if compares:
            found["train_val_loss"] = trainer.validate(trainer.seen)
        if shows:
            sheet, shown = trainer.draw()
            found.update(shown)
            if leads and sheet is not None:
                folder.show(trainer.done, sheet)
                metrics.show(trainer.done, sheet)
        return found

    with Bar(recipe.steps, initial=trainer.done, leave=True, quiet=quiet or not leads,
             waiting="compiling the first step" * (trainer.done < recipe.steps)) as bar:
        while trainer.done < recipe.steps and not trainer.stopped:
            # The step.
            row = trainer.advance(stopped)
            bar.update()
            logs = leads and trainer.done % recipe.log_every == 0
            ends = trainer.stopped or trainer.done == recipe.steps
            if leads:
                metrics.add(row)
            if logs:
                loss, norm, speed = metrics.averages()
                bar.say(f"loss {loss:.4f}, lr {row.lr:.1e}, |g| {norm:.2f}, {speed:.2f} clips/s,"
                        f" {peak_gb():.1f} GB, {trainer.skipped} skipped")
            # Validation, metrics and checkpoints.
            saves = (ends or trainer.done % recipe.save_every == 0) and not trainer.bad
            measured = {} if trainer.bad else measure(ends, saves)
            if leads and (logs or ends or measured or saves):
                metrics.write(trainer.done, **measured)
            if leads and saves:     # during a series of bad steps the last good checkpoint stays
                folder.save(trainer, measured.get("val_loss"))
                folder.draw()
    return trainer.stopped


def limit_of_chip(device):
    """Return why the NPU is unsuitable for training in half precision, or None."""
    if device == "CPU":
        return None
    from sgm.audit.environment import LIMITS, versions
    found = versions()
    limit = LIMITS.get(found["generation"])
    return limit and f"the chip is a {found['chips'][0]}: {limit}"


def main(argv=None):
    """Train as the flags say; return the exit code."""
    # What is asked for.
    args = parse(argv)
    spec, recipe, output = configure(args)
    check_folder(output, "--output")
    if args.dry_run:
        return plan(spec, recipe, output)
    with loading():
        from sgm import ops
        from sgm.checkpoints.loading import file_hash
        from sgm.common.cli import until_stopped
        from sgm.config.recipe import resolve_precision
        from sgm.train.build import build
        from sgm.train.run.beginning import check_init, note_resumption
        from sgm.train.run.distributed import join_ranks
        from sgm.train.run.log import Metrics, open_board
        from sgm.train.run.run_folder import STATE, RunFolder, check_resumable
    recipe = resolve_precision(recipe, args.device, limit_of_chip(args.device))
    init, changes = args.init, []
    if args.resume:
        init, changes = check_resumable(output, recipe, spec, args.init)
        if begun := beginning_of(args, output):
            check_init(output, begun, args.init, file_hash)
    elif (output / STATE).exists():
        raise ConfigError(f"--output {output}: holds a run already; add --resume, or give another"
                          " folder")
    # Device and other processes.
    ops.set_device(args.device,
                   int(os.environ.get("DEVICE_ID", 0)) if args.distributed else args.device_id)
    rank, world_size, watchdog = join_ranks(output) if args.distributed else (0, 1, nullcontext())
    # The first process alone writes: one lock is enough.
    with watchdog, locked(output, "--output") if rank == 0 else nullcontext():
        # Networks, data and the run's folder.
        def progress(items, text):
            return each(items, text, "clip", quiet=args.quiet or rank > 0)

        trainer, origin = build(spec, recipe, init, progress, rank, world_size)
        folder = RunFolder(output, recipe, trainer.engine.spec, init)
        if args.resume:
            folder.resume(trainer)
        if world_size > 1:
            trainer.broadcast_weights()
        metrics = None
        if rank == 0:
            if args.resume:
                changed = "".join(f"; {change}" for change in changes)
                print(f"{'resumed':10} at step {trainer.done}{changed}")
            if not args.quiet:
                settings(trainer, origin, output, args.device)
            if args.resume:
                note_resumption(output, sys.argv, trainer.done, recipe)
                if trainer.done >= recipe.steps:
                    print("finished already: give --set steps=N to train further")
            else:
                folder.start(sys.argv, args.set, args.model_set)
            metrics = Metrics(output / "metrics.csv", trainer.done,
                              recipe.batch * recipe.accumulate * world_size,
                              open_board(output / "tensorboard", trainer.done))
        # The steps.
        with until_stopped() as stopped:
            if not fit(trainer, folder, metrics, stopped, args.quiet):
                return 0
        if rank == 0 and (output / STATE).exists():
            print(f"train.py: interrupted at step {trainer.done}; train.py --resume {output}"
                  " continues", file=sys.stderr)
        return 130


def run(argv=None):
    """Return the exit code of `main`; errors are one line."""
    return exit_code("train.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
