#!/usr/bin/env python3
"""How far samplers are from the converged solution, over the number of calls of the network.

  python benchmarks/few_steps.py mixture --json mixture.json
  python benchmarks/few_steps.py model picture.png --reference 200 --json model.json
  python benchmarks/few_steps.py model picture.png --config sv3d_p --ckpt sv3d_p.safetensors

mixture: the data are points around centers, so the denoiser is a formula (in float64); guidance is
between the mixture of all centers and that of some. model: the views of one picture in latents, by
the embedded model or another. The converged solution is Heun's of that many steps. All start
from the same noise with the model's guidance and follow its noise levels (Karras et al. 2022), two
of them also those of `--preset few-steps`: one step down to 20, the others from there to 0.02.

Printed is the relative L2 distance to the converged solution for each sampler and number of calls
(of a guided denoiser: both sides are one call); then what guidance within an interval of noise
levels changes, and the share of calls that then need both sides (Kynkäänniemi et al. 2024, arXiv
2404.07724). What holds for a mixture or the embedded model is not shown for published weights.

Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402

from sgm.common.cli import Arguments, exit_code, int_range  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.progress import each  # noqa: E402
from sgm.config.model import PRESETS, SamplingSpec  # noqa: E402
from sgm.diffusion import guidance, samplers  # noqa: E402

CALLS = (5, 8, 10, 12, 15, 20, 30, 50, 100)
EULER = 50          # steps of Euler that the others are compared with
# Each sampler with the model's noise levels; the two of one call a step also with the preset's.
COLUMNS = tuple((name, False) for name in samplers.BY_NAME) + (("dpmpp2m", True), ("unipc", True))
# Noise levels within which there is guidance; none has all.
INTERVALS = ((0.0, 1e9), (0.0, 50.0), (0.0, 10.0), (0.3, 1e9), (0.3, 50.0), (0.3, 10.0))


class Mixture:
    """A denoiser that is known: data normal around centers, of which the condition leaves some."""

    def __init__(self, dimensions=32, centers=24, conditional=4, deviation=0.1, count=64, seed=0):
        random = np.random.RandomState(seed)
        self.centers = random.standard_normal((centers, dimensions))
        self.conditional, self.variance = conditional, deviation ** 2
        self.noise = random.standard_normal((count, dimensions))

    def estimate(self, x, sigma, centers):
        """Return E[clean data | x] at noise level sigma."""
        variance = self.variance + sigma ** 2
        exponent = -((x[:, None] - centers) ** 2).sum(-1) / (2 * variance)
        share = np.exp(exponent - exponent.max(1, keepdims=True))
        mean = share / share.sum(1, keepdims=True) @ centers
        return mean + (x - mean) * (self.variance / variance)

    def denoiser(self, scale):
        """Return the guided denoiser; of scale 1 it is the conditional one."""
        some = self.centers[:self.conditional]

        def denoise(x, sigma):
            conditional = self.estimate(x, sigma, some)
            if scale == 1:
                return conditional
            return guidance.guide(self.estimate(x, sigma, self.centers), conditional, scale)
        return denoise


def within(denoise, plain, interval):
    """Return the denoiser that is guided at noise levels within an interval, and counts calls."""
    low, high = interval
    calls = {"guided": 0, "all": 0}

    def either(x, sigma):
        guided = low <= sigma <= high
        calls["guided"] += guided
        calls["all"] += 1
        return (denoise if guided else plain)(x, sigma)
    return either, calls


def with_preset(spec):
    """Return a `SamplingSpec` with the noise levels of `--preset few-steps`."""
    given = dict(line.split("=") for line in PRESETS["few-steps"])
    levels = {name: float(given[f"sampling.{name}"]) for name in ("sigma_min", "sigma_second")}
    return replace(spec, **levels)


def solved(name, denoise, start, steps, spec):
    """Return what a sampler ends with."""
    sigmas = samplers.karras_sigmas(steps, spec.sigma_min, spec.sigma_max, spec.rho,
                                    spec.sigma_second)
    x = start * float(spec.start_noise * np.sqrt(1 + sigmas[0] ** 2))
    *_, (_, x, _) = samplers.BY_NAME[name](denoise, x, sigmas)
    return x if isinstance(x, np.ndarray) else x.asnumpy()


def distance(found, wanted):
    """Return the relative L2 distance."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def experiment(denoise, plain, start, spec, calls, reference, quiet):
    """Return {"calls": ..., "distances": {sampler: [...]}, "intervals": [...]}.

    denoise, plain: the guided denoiser and the conditional one, None if there is no guidance.
    """
    wanted = solved("heun", denoise, start, reference, spec)
    jobs, found = [(column, count) for column in COLUMNS for count in calls], {}
    for (name, preset), count in each(jobs, "samplers", "run", quiet):
        steps = (count + 1) // 2 if name == "heun" else count
        ended = solved(name, denoise, start, steps, with_preset(spec) if preset else spec)
        title = name + ", levels of the preset" * preset
        found.setdefault(title, []).append(distance(ended, wanted))
    rows = []
    for interval in each(INTERVALS if plain else (), "intervals", "run", quiet):
        either, made = within(denoise, plain, interval)
        ended = solved("unipc", either, start, 50, spec)
        rows.append({"from": interval[0], "to": min(interval[1], spec.sigma_max),
                     "distance": distance(ended, wanted), "guided": made["guided"] / made["all"]})
    return {"reference": reference, "calls": calls, "distances": found, "intervals": rows}


def fewest(result):
    """Return (sampler, calls) of the fewest calls that are as near as 50 steps of Euler, or None.

    It must stay as near with more calls too.
    """
    calls = result["calls"]
    aim = result["distances"]["euler"][calls.index(EULER)]
    reached = []
    for name, distances in result["distances"].items():
        beyond = [i for i, value in enumerate(distances) if value > aim]
        first = beyond[-1] + 1 if beyond else 0
        if first < len(calls):
            reached.append((calls[first], distances[first], name))
    return (min(reached)[2], min(reached)[0]) if reached else None


def text(result):
    """Return the two tables in Markdown."""
    lines = ["| calls | " + " | ".join(result["distances"]) + " |",
             "|---" * (1 + len(result["distances"])) + "|"]
    for i, calls in enumerate(result["calls"]):
        cells = (f"{values[i]:.1e}" for values in result["distances"].values())
        lines.append(f"| {calls} | " + " | ".join(cells) + " |")
    if result["intervals"]:
        lines += ["", "| guided at noise levels | distance | guided calls |", "|---|---|---|"]
    lines += [f"| {row['from']:g} to {row['to']:g} | {row['distance']:.1e} | {row['guided']:.0%} |"
              for row in result["intervals"]]
    best = fewest(result)
    if best is not None:
        lines += ["", f"As near as 50 steps of Euler in the fewest calls: {best[0]}, {best[1]}"]
    return "\n".join(lines)


def of_model(args):
    """Return `experiment`'s denoisers, noise and spec of a model and a picture."""
    from PIL import Image

    from sgm import ops
    from sgm.diffusion.denoiser import tensor
    from sgm.diffusion.pipeline import load_model
    from sgm.views import images, preprocessing
    from sgm.views.cameras import Orbit

    ops.set_device("CPU")
    engine = load_model(args.config, args.ckpt)
    spec, orbit = engine.spec, Orbit.static(num_frames=engine.spec.num_frames)
    upright = images.upright_rgba(Image.open(args.picture), "picture")
    picture = preprocessing.prepare(upright, (spec.height, spec.width), cut_out=spec.is_orbit)[0]
    pixels = preprocessing.to_network(images.composite(picture))
    random = np.random.RandomState(args.seed)
    first = random.standard_normal(pixels.shape).astype(np.float32)
    latent = spec.vae.z_channels, spec.height // spec.vae_factor, spec.width // spec.vae_factor
    noise = random.standard_normal((spec.num_frames, *latent)).astype(np.float32)
    angles = {"polars_rad": orbit.polars_rad, "azimuths_rad": orbit.azimuths_rad}
    c, uc = engine.condition(pixels, first, **(angles if spec.is_posed else {}))
    options = spec.sampling
    scales = guidance.scales(options.guidance, options.min_scale, options.max_scale,
                             spec.num_frames)
    if args.scale is not None:
        scales = np.full_like(scales, args.scale)

    def waiting(denoise):
        def estimate(x, sigma):
            found = denoise(x, sigma)
            ops.wait()
            return found
        return estimate

    plain = waiting(engine.denoiser(c, uc, np.ones_like(scales)))
    guided = plain if np.all(scales == 1) else waiting(engine.denoiser(c, uc, scales))
    return guided, None if guided is plain else plain, tensor(noise), options


def parse(argv) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="data", required=True)
    mixture = commands.add_parser("mixture", help="data whose denoiser is a formula")
    mixture.add_argument("--scale", type=float, default=2.5, help="guidance (default: %(default)s)")
    mixture.add_argument("--deviation", type=float, default=0.1,
                         help="of the data around a center (default: %(default)s)")
    model = commands.add_parser("model", help="the latents of a picture's views")
    model.add_argument("picture", help="image file")
    model.add_argument("--config", default="sv3d_tiny", help="model (default: %(default)s)")
    model.add_argument("--scale", type=float, help="guidance of all frames (default: the model's)")
    model.add_argument("--ckpt", help="its weights (default: the embedded ones)")
    for command in (mixture, model):
        command.add_argument("--calls", type=int_range(2, 10000), nargs="+", default=CALLS,
                             metavar="N", help=f"of the denoiser, {EULER} among them (default:"
                             f" {' '.join(map(str, CALLS))})")
        command.add_argument("--reference", type=int_range(2, 100000), default=1000, metavar="N",
                             help="Heun's steps to the converged solution (default: %(default)s)")
        command.add_argument("--seed", type=int_range(0, 2 ** 32 - 1), default=23,
                             help="of noise and centers (default: %(default)s)")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE")
    args = parser.parse_args(argv)
    args.calls = sorted(set(args.calls))
    if EULER not in args.calls:
        parser.error(f"--calls: found no {EULER}, expected it: the others are compared with it")
    return args


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    args = parse(argv)
    if args.data == "mixture":
        data = Mixture(deviation=args.deviation, seed=args.seed)
        given = data.denoiser(args.scale), data.denoiser(1), data.noise, SamplingSpec()
    else:
        given = of_model(args)
    result = experiment(*given, args.calls, args.reference, args.quiet)
    if args.json is not None:
        with atomic(args.json) as path:
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(text(result))
    return 0


def run(argv=None) -> int:
    """Run `main` with errors as one line and an exit code."""
    return exit_code("few_steps.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
