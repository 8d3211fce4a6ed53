#!/usr/bin/env python3
"""Generate the orbits of the 16 held-back toy objects and measure them: the small model's figures in the README.

  held_back.py --output runs/held_back                    # the embedded model, static orbits, elevation 10
  held_back.py --ckpt runs/sv3d_tiny/averaged.safetensors --output runs/held_back

Writes OUTPUT/truth, OUTPUT/prediction and OUTPUT/wrong (the same model told azimuths a quarter turn off), one views folder
an object, then runs `evaluate.py views` on them (views.csv, sheet.png). Finished folders are kept.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import evaluate  # noqa: E402
import render_orbits  # noqa: E402
from PIL import Image  # noqa: E402

from sgm import ops  # noqa: E402
from sgm.cameras import Orbit  # noqa: E402
from sgm.errors import exit_code  # noqa: E402
from sgm.pipeline import EMBEDDED, generate, load_model  # noqa: E402
from sgm.render.procedural import HELD_BACK_SEEDS  # noqa: E402
from sgm.views import is_finished  # noqa: E402


class QuarterOff(Orbit):
    """The same cameras, but the network is told azimuths a quarter turn further (the input view's excepted)."""

    @property
    def azimuths_rad(self):
        told = (super().azimuths_rad + np.pi / 2) % (2 * np.pi)
        told[-1] = 0
        return told


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for truth, predictions and figures")
    add("--config", default=EMBEDDED[0], help="default sv3d_tiny")
    add("--ckpt", default=EMBEDDED[1], help="default: the embedded weights")
    add("--elevation", type=float, default=10.0, help="degrees; default 10")
    add("--steps", type=int, default=None, help="default: the model's")
    add("--guidance", type=float, nargs=2, default=None, metavar=("MIN", "MAX"), help="default: the model's")
    add("--seed", type=int, default=23, help="of the noise; default 23")
    args = parser.parse_args(argv)
    ops.set_device("CPU")
    engine = load_model(args.config, args.ckpt)
    size = engine.spec.height
    truth = args.output / "truth"
    code = render_orbits.main(["procedural", "--count", str(len(HELD_BACK_SEEDS)), "--first-seed",
                               str(HELD_BACK_SEEDS[0]), "--out", str(truth), "--size", str(size), "--elevation",
                               str(args.elevation), str(args.elevation)])
    if code:
        return code
    right = Orbit.static(args.elevation, engine.spec.num_frames)
    wrong = QuarterOff(right.azimuths_deg, right.elevations_deg)
    for folder in tqdm(sorted(p for p in truth.iterdir() if p.is_dir()), unit="object"):
        source = np.asarray(Image.open(folder / f"{len(right) - 1:03d}.png"))
        for name, orbit in (("prediction", right), ("wrong", wrong)):
            target = args.output / name / folder.name
            if not is_finished(target):
                generate(engine, source, orbit, args.seed, args.steps, guidance_range=args.guidance).save(
                    target, background=(255, 255, 255), formats=())
    return evaluate.main(["views", str(args.output / "prediction"), str(truth), "--wrong-azimuths",
                          str(args.output / "wrong"), "--csv", str(args.output / "views.csv"), "--sheet",
                          str(args.output / "sheet.png")])


if __name__ == "__main__":
    sys.exit(exit_code("held_back.py", main, interrupted="interrupted; finished folders stay"))
