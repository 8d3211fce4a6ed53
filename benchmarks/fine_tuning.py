#!/usr/bin/env python3
"""Fine-tune an orbit model on real objects, and measure what it learned on views it never saw.

  python benchmarks/fine_tuning.py one furniture/*.sh3f --out runs/tuned/one
  python benchmarks/fine_tuning.py style furniture/*.sh3f --out runs/tuned/style --steps 600

one: a chair of the catalogue's test split in four orbits, and measured on a fifth whose elevation
and azimuths lie between theirs; by a LoRA and by the temporal layers alone. style: ten chairs of
the training split in two colors, and measured on three of the test split in the same. Printed is
the mean foreground PSNR (dB) of all views but the input, of the model before and after, of the
autoencoder's round trip of the true views, which bounds it, and of the mean of the true orbit.
What is finished in --out is kept; settings.json says for which model and objects, and others are
refused.

Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402
from real_objects import chosen  # noqa: E402
from sharpness import round_trips, sheet  # noqa: E402

from sgm import ops  # noqa: E402
from sgm.common.cli import (  # noqa: E402
    MAX_SEED,
    Arguments,
    check_folder,
    exit_code,
    int_range,
)
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.locks import locked  # noqa: E402
from sgm.common.records import claim_folder  # noqa: E402
from sgm.config.model import MAX_STEPS  # noqa: E402
from sgm.diffusion.pipeline import EMBEDDED, generate, load_model  # noqa: E402
from sgm.geometry.mesh import linear_from_srgb, srgb_from_linear  # noqa: E402
from sgm.render.framing import normalized, viewing_distance  # noqa: E402
from sgm.render.primitives import rotated  # noqa: E402
from sgm.render.zbuffer import STUDIO, render_views  # noqa: E402
from sgm.train.data.packed import PackedOrbits  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import FOV_DEG, Orbit  # noqa: E402
from sgm.views.images import save_png  # noqa: E402

CHAIR = "BlendSwap-CC-BY-128"
# chosen before the first run: the first ten of the training split that are called "Chair", and
# three of the test split
STYLED = ("BlendSwap-CC-0-031", "BlendSwap-CC-0-079", "BlendSwap-CC-0-093", "BlendSwap-CC-0-101",
          "BlendSwap-CC-0-114", "BlendSwap-CC-0-143", "BlendSwap-CC-0-171", "BlendSwap-CC-BY-011",
          "BlendSwap-CC-BY-013", "BlendSwap-CC-BY-024")
MEASURED = ("BlendSwap-CC-BY-128", "BlendSwap-CC-0-037", "Scopia-006")
# elevation and yaw, degrees: of the orbits that are trained on, and between them of the measured
# one; the views of an orbit are 17 degrees apart
TRAINED, BETWEEN = ((0, 0.0), (12, 4.0), (24, 8.0), (36, 12.0)), (18, 6.0)
DARK, BRIGHT = (0.16, 0.06, 0.30), (1.0, 0.78, 0.30)    # sRGB, of the two-colored objects


def two_colored(views):
    """Return views (..., 4) uint8 whose lightness is one between DARK's and BRIGHT's color."""
    light = linear_from_srgb(views[..., :3] / 255) @ np.array((0.2126, 0.7152, 0.0722))
    share = srgb_from_linear(light)[..., None]
    colors = (1 - share) * np.array(DARK) + share * np.array(BRIGHT)
    return np.concatenate([np.round(255 * colors).astype(np.uint8), views[..., 3:]], -1)


def orbit_of(item, orbit, yaw, size):
    """Return the views (T, size, size, 4) uint8 of a catalogue object turned by `yaw` degrees."""
    mesh = normalized(rotated(item.load(), yaw), "sphere")
    poses = orbit.poses(viewing_distance(mesh, orbit))
    return render_views(mesh, poses, size, FOV_DEG, lighting=STUDIO)


def write_set(folder, rows):
    """Write a packed set of (views, Orbit)."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "clips.npy", np.stack([views for views, _ in rows]))
    for name in ("azimuths", "elevations"):
        np.save(folder / f"{name}.npy",
                np.float32([getattr(orbit, f"{name}_deg") for _, orbit in rows]))


def render_sets(args, spec, weights):
    """Return the folders of the sets to train on and to measure, rendered if they are not there.

    spec: the ModelSpec; weights: the hash of the untuned ones. Raises InputError if --out is of
    another task, model or other objects.
    """
    seen, others = ((CHAIR,), (CHAIR,)) if args.task == "one" else (STYLED, MEASURED)
    claim_folder(args.out, {"task": args.task, "model": spec.name, "weights": weights,
                            "size": spec.height, "frames": spec.num_frames, "trained": seen,
                            "measured": others}, "--out")
    train, test = args.out / "train", args.out / "test"
    if (test / "elevations.npy").exists():
        return train, test
    items = dict(chosen(args.libraries, sorted({*seen, *others})))
    items = {name: replace(item, yaw=0.0) for name, item in items.items()}

    def row(name, elevation, yaw):
        orbit = Orbit.static(elevation, spec.num_frames)
        views = orbit_of(items[name], orbit, yaw, spec.height)
        return (two_colored(views) if args.task == "style" else views), orbit

    write_set(train, [row(name, *angles) for name in seen for angles in TRAINED])
    write_set(test, [row(name, *BETWEEN) for name in others])
    return train, test


def tune(args, trains, data):
    """Train unless it is done; return the weights and the seconds, None if some are from before."""
    output = args.out / trains
    weights = output / ("lora.safetensors" if trains == "lora" else "averaged.safetensors")
    settings = [f"data=[{data}]", f"trains={trains}", f"steps={args.steps}", f"batch={args.batch}",
                "accumulate=1", "frames=4", "recompute=false", f"lr={args.lr}", "warmup=20",
                "average_decay=0.98", "precision=fp32", f"seed={args.seed}"]
    made_with = "\n".join(settings)        # model and weights are in settings.json
    finished = output / "finished.txt"
    if finished.exists():
        if finished.read_text() != made_with:
            raise InputError(f"--out {args.out}: holds a training with other settings ({finished});"
                             " give another folder")
        return weights, None
    again = ["--resume"] if (output / "config.yaml").exists() else []
    command = [sys.executable, str(ROOT / "train.py"), "--model_cfg", args.config, "--train_cfg",
               "sv3d_lora", "--init", str(args.ckpt or EMBEDDED[1]), "--output", str(output),
               *again, *(word for value in settings for word in ("--set", value))]
    begun = time.perf_counter()
    code = subprocess.run(command).returncode
    if code:
        raise InputError(f"train.py ended with exit code {code}, see its last line; the same"
                         " command continues")
    finished.write_text(made_with)
    return weights, None if again else time.perf_counter() - begun


def foreground(orbits, truths):
    """Return the mean foreground PSNR (dB) of orbits, the input view left out."""
    return float(np.mean([view["psnr_fg"] for made, truth in zip(orbits, truths)
                          for view in metrics.compare_orbit(made, truth)]))


def compare(args):
    """Render, train, generate and measure; return the exit code."""
    ops.set_device("CPU")
    engine = load_model(args.config, args.ckpt)
    train, test = render_sets(args, engine.spec, engine.weights_hash())
    clips = PackedOrbits([test])
    orbits = [clips.orbit(k) for k in range(len(clips))]
    truths = [clips[k].arrays["clips"][clips[k].row] for k in range(len(clips))]

    def show(name, made, seconds=None):
        save_png(args.out / f"{name}.png", sheet(truths, made))
        print(f"{name:22s} {foreground(made, truths):6.2f} dB"
              + (f"  {seconds / 60:.1f} minutes" if seconds else ""), flush=True)

    def sampled(engine):
        return [generate(engine, truth[-1], orbit, seed=args.seed).frames
                for truth, orbit in zip(truths, orbits)]

    show("autoencoder", round_trips(engine, truths))
    show("mean of true orbit", [metrics.mean_of_orbit(truth) for truth in truths])
    show("untuned", sampled(engine))
    engine.release()
    for trains in args.trains:
        weights, seconds = tune(args, trains, train)
        if trains == "lora":
            tuned = load_model(args.config, args.ckpt, lora=str(weights))
        else:
            tuned = load_model(args.config, weights)
        show(trains, sampled(tuned), seconds)
        tuned.release()
    return 0


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("task", choices=("one", "style"), help="see above")
    add("libraries", nargs="+", help="the catalogue's libraries (.sh3f)")
    add("--out", type=Path, required=True, help="folder to fill")
    add("--config", default=EMBEDDED[0], help="model (default: the embedded one)")
    add("--ckpt", default=None, help="weights (default: the embedded ones)")
    add("--trains", nargs="+", choices=("lora", "temporal"), default=["lora", "temporal"],
        help="what is trained (default: one, then the other)")
    add("--steps", type=int_range(1, MAX_STEPS), default=400, help="of a training (default 400)")
    add("--batch", type=int_range(1, 64), default=4, help="clips of a step (default 4)")
    add("--lr", default="1e-3", help="learning rate (default 1e-3)")
    add("--seed", type=int_range(0, MAX_SEED), default=23, help="of noise and order (default 23)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    check_folder(args.out, "--out")
    with locked(args.out, "--out"):
        return compare(args)


if __name__ == "__main__":
    sys.exit(exit_code("fine_tuning.py", main))
