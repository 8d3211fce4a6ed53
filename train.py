#!/usr/bin/env python3
"""Train a model: python train.py --model_cfg sv3d_tiny --train_cfg configs/train/sv3d_tiny.yaml

Writes into --output: config.yaml, metrics.csv, curve.png, averaged.safetensors (sample with it), state.safetensors
(--resume continues from it, bit for bit on a CPU). Ctrl-C saves and ends with exit code 130.
"""
import argparse
import csv
import os
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")

from omegaconf import OmegaConf  # noqa: E402
from tqdm import tqdm  # noqa: E402

from sgm import ops  # noqa: E402
from sgm.checkpoint import CheckpointError, load_weights, open_checkpoint  # noqa: E402
from sgm.config import ConfigError, find_config, load_yaml  # noqa: E402
from sgm.engine import Engine  # noqa: E402
from sgm.errors import exit_code  # noqa: E402
from sgm.images import save_png  # noqa: E402
from sgm.specs import load_spec  # noqa: E402
from sgm.train.curve import draw_curve  # noqa: E402
from sgm.train.data import LatentOrbits, PackedOrbits  # noqa: E402
from sgm.train.init import initialise  # noqa: E402
from sgm.train.recipe import Recipe  # noqa: E402
from sgm.train.trainer import DiffusionBatches, Trainer, ViewBatches  # noqa: E402


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_cfg", required=True, help="model: a name (sv3d_tiny) or a YAML file")
    add("--train_cfg", required=True, help="recipe: a name or a YAML file of configs/train")
    add("--output", default=None, help="folder for the results (default runs/<recipe>)")
    add("--init", default=None, metavar="FILE", help="weights to start from (default: random)")
    add("--resume", action="store_true", help="continue the run in --output")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe")
    add("--model-set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the model")
    add("--device", default="CPU", choices=ops.TARGETS, help="default CPU")
    add("--device-id", type=int, default=0, help="which NPU (default 0)")
    return parser.parse_args(argv)


def build(args):
    """Engine, recipe and trainer of a run."""
    spec = load_spec(args.model_cfg, args.model_set)
    recipe = load_yaml(Recipe, find_config(args.train_cfg, "train"), args.set)
    orbits = PackedOrbits(recipe.data)
    engine = Engine(spec)
    initialise(engine, recipe.seed)
    if args.init:
        load_parts(engine, args.init)
    if recipe.task == "diffusion":
        cache = Path(recipe.data[0]).parent / "cache"
        batches = DiffusionBatches(recipe, LatentOrbits(orbits, engine, cache, lambda items, text: tqdm(items, text)))
    else:
        batches = ViewBatches(recipe, orbits, spec)
    return recipe, Trainer(engine, recipe, batches)


def load_parts(engine, path):
    """The weights of those parts of the engine (conditioner, model, first_stage_model) that the file has."""
    checkpoint = open_checkpoint(path)
    parts = [part for part in engine.PARTS if any(key.startswith(part + ".") for key in checkpoint)]
    if not parts:
        raise CheckpointError(f"--init {path}: has no key of {', '.join(engine.PARTS)}; expected weights of a model")
    for part in parts:
        load_weights(getattr(engine, part), checkpoint, prefix=part + ".")


def main(argv=None):
    args = parse(argv)
    ops.set_device(args.device, args.device_id)
    recipe, trainer = build(args)
    output = Path(args.output or f"runs/{Path(args.train_cfg).stem}")
    output.mkdir(parents=True, exist_ok=True)
    if args.resume:
        trainer.resume(output)
    elif (output / "state.safetensors").exists():
        raise ConfigError(f"--output {output}: holds a run already; add --resume, or give another folder")
    OmegaConf.save(OmegaConf.create({"model": vars(trainer.engine.spec)["name"], "command": sys.argv,
                                     "recipe": OmegaConf.structured(recipe)}), output / "config.yaml")
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    log = output / "metrics.csv"
    fresh = not log.exists()
    rows, began = [], time.time()
    with open(log, "a", newline="", encoding="utf-8") as file, \
            tqdm(total=recipe.steps, initial=trainer.done, unit="step", smoothing=0.02) as bar:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "loss", "grad_norm", "lr", "seconds"])
        while trainer.done < recipe.steps and not stopped:
            rows.append(trainer.advance())
            bar.update()
            if trainer.done % recipe.log_every == 0:
                loss, norm = (sum(row[k] for row in rows) / len(rows) for k in (0, 1))
                writer.writerow([trainer.done, f"{loss:.6f}", f"{norm:.4f}", f"{rows[-1][2]:.3e}",
                                 f"{time.time() - began:.1f}"])
                file.flush()
                bar.set_postfix_str(f"loss {loss:.4f}, lr {rows[-1][2]:.1e}, |g| {norm:.2f}", refresh=False)
                rows = []
            if trainer.done % recipe.save_every == 0:
                trainer.save(output)
                save_png(output / "curve.png", draw_curve(log))
        trainer.save(output)
        save_png(output / "curve.png", draw_curve(log))
    return 130 if stopped else 0


def run(argv=None):
    """`main` with errors as one line and an exit code."""
    return exit_code("train.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
