#!/usr/bin/env python3
"""Many images, large images: whether memory stays flat and time grows evenly.

  python benchmarks/scale.py images --count 200     a folder of images with the embedded model
  python benchmarks/scale.py sizes                  over frames, pixels and decoding chunk
  python benchmarks/scale.py batch                  several images in one batch: worth a flag?
  python benchmarks/scale.py all

images: simple_video_sample.py makes the views of a folder of pictures (procedural objects, of
different sizes in pixels), watched from outside: when each views folder appears, and the memory of
the process then (RSS, and its own without mapped files). sizes: two images with the embedded
model's architecture, random weights and guidance, 2 steps; figures are of the second image, which
does not compile, and of the most own memory of the process. batch: one evaluation of the network
for 1, 2 and 4 images at a time; medians of runs that take turns.

WORK/scale.json is written after every image and size, and what it holds is not measured again:
after Ctrl-C the same command goes on. WORK/scale.png shows it all.

Exit code: 0 done, 1 a run failed, 2 wrong input, 130 interrupted.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from sgm.common.cli import Arguments, exit_code, int_range  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.progress import Bar, each  # noqa: E402
from sgm.render.procedural import render_clip  # noqa: E402
from sgm.views.cameras import Orbit  # noqa: E402
from sgm.views.images import save_png  # noqa: E402

SIDES = (160, 256, 400, 640, 1000)      # pixels of the pictures, in turn
# What is changed of (frames, pixels, frames decoded at once), one at a time.
USUAL = {"frames": 21, "pixels": 128, "chunk": 7}
SIZES = {"frames": (3, 7, 14, 21, 28, 42, 63, 84), "pixels": (64, 96, 128, 192, 256, 320, 448, 576),
         "chunk": (1, 2, 3, 5, 7, 11, 21)}
BATCHES = (1, 2, 4)
LOOK = 0.05                             # seconds between two looks at a process
INK, BLUE, ORANGE, LIGHT = (40, 40, 40), (31, 119, 180), (255, 127, 14), (225, 225, 225)


def pictures(folder, count):
    """Write the pictures that are missing in a folder; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [k for k in range(count) if not (folder / f"{k:03d}.png").exists()]
    for k in each(missing, "pictures", "picture"):
        side = SIDES[k % len(SIDES)]
        save_png(folder / f"{k:03d}.png", render_clip(k, Orbit.static(10, 1), side)[0])
    return folder


def memory(pid):
    """Return the megabytes of a process: resident, and those of its own. Raises OSError."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return [int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon")]


def watched(flags, output, appeared):
    """Run simple_video_sample.py into a folder; return the most memory of its own, in megabytes.

    appeared(folder, seconds, resident, own) is called for each views folder: seconds since the one
    before or since the start. Raises InputError if the command fails.
    """
    known = {path.parent for path in output.glob("*/run.json")}
    argv = [sys.executable, str(ROOT / "simple_video_sample.py"), "--quiet", "--output",
            str(output), *map(str, flags)]
    before, most = time.monotonic(), 0.0
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            while process.poll() is None:
                time.sleep(LOOK)
                with suppress(OSError, KeyError):       # it has just ended
                    resident, own = memory(process.pid)
                    most = max(most, own)
                for folder in sorted({path.parent for path in output.glob("*/run.json")} - known):
                    known.add(folder)
                    now = time.monotonic()
                    appeared(folder, now - before, resident, own)
                    before = now
        except BaseException:
            process.terminate()
            raise
        said = process.stderr.read().decode().strip().splitlines()
    if process.returncode:
        raise InputError(f"simple_video_sample.py {' '.join(argv[3:])}: exit code"
                         f" {process.returncode}: {said[-1] if said else 'it says nothing'}")
    return most


def images(args, found, keep):
    """Measure a folder of images."""
    rows = found.setdefault("images", [])
    source, output = pictures(args.work / f"pictures-{args.count}", args.count), args.work / "views"
    session = 1 + max((row["session"] for row in rows), default=0)
    with Bar(args.count, "images", "image", initial=len(rows), quiet=args.quiet) as bar:
        def appeared(folder, seconds, resident, own):
            rows.append({"image": folder.name, "session": session, "seconds": round(seconds, 3),
                         "resident_mb": round(resident, 1), "own_mb": round(own, 1)})
            keep()
            bar.update()
        watched(["--image", source], output, appeared)


def sizes(args, found, keep):
    """Measure each size that is not known yet."""
    rows = found.setdefault("sizes", {})
    source = pictures(args.work / "pictures-2", 2)
    wanted = {" ".join(map(str, point.values())): point for name, values in SIZES.items()
              for point in ({**USUAL, name: value} for value in values)}
    if args.few:
        wanted = dict(list(wanted.items())[:2])
    for key, point in each([item for item in wanted.items() if item[0] not in rows], "sizes",
                           "size", args.quiet):
        output = args.work / "sizes" / key.replace(" ", "-")
        most = watched(["--config", "sv3d_tiny", "--ckpt", "random", "--image", source, "--steps",
                        2, "--guidance", 1, 2.5, "--format", "png", "--overwrite", "--num-frames",
                        point["frames"], "--size", point["pixels"], "--decode-chunk",
                        point["chunk"]], output, lambda *appeared: None)
        stages = json.loads((output / "001_23" / "run.json").read_text())["stages"]
        rows[key] = {**point, "own_mb": round(most, 1),
                     **{name: stage["seconds"] for name, stage in stages.items()}}
        keep()


def batch(args, found, keep):
    """Measure an evaluation of the network for several images at a time."""
    from sgm import ops
    from sgm.diffusion.denoiser import tensor
    from sgm.diffusion.pipeline import load_model
    ops.set_device("CPU")
    engine, random = load_model(), np.random.RandomState(0)
    spec, frames = engine.spec, engine.spec.num_frames
    latent = spec.vae.z_channels, spec.height // spec.vae_factor, spec.width // spec.vae_factor
    tasks = {}
    with engine.weights_loaded("model"):
        step = ops.compiled(engine.model.construct)
        for count in BATCHES:
            rows = count * frames

            def normal(*shape):
                return tensor(random.standard_normal(shape))
            token = normal(rows, 1, spec.unet.context_dim)
            given = (normal(rows, *latent), tensor(np.full(rows, 5.0)),
                     engine.model.prepare(token, frames), normal(rows, *latent),
                     normal(rows, sum(spec.vector_widths.values())), tensor(np.zeros(rows)))
            tasks[count] = given
        seconds = {count: [] for count in BATCHES}
        for _ in each(range(args.repeat + 1), "batch", "round", args.quiet):
            for count, given in tasks.items():
                start = time.perf_counter()
                ops.fetch(step(*given, frames))
                seconds[count].append(time.perf_counter() - start)
    each_image = {count: median(runs[1:]) / count for count, runs in seconds.items()}
    found["batch"] = {count: {"seconds_per_image": round(value, 4),
                              "images_per_second": round(each_image[1] / value, 3)}
                      for count, value in each_image.items()}
    keep()


def text(found):
    """Return what the file says, in Markdown."""
    lines = []
    rows = [row for row, before in zip(found.get("images", [])[1:], found.get("images", []))
            if row["session"] == before["session"]]     # the first of a session compiles
    if rows:
        lines += ["| images | seconds each | resident, own MB |", "|---|---|---|"]
        quarter = max(1, len(rows) // 4)
        for name, part in (("first quarter", rows[:quarter]), ("last quarter", rows[-quarter:])):
            seconds, resident, own = (median(row[key] for row in part)
                                      for key in ("seconds", "resident_mb", "own_mb"))
            lines.append(f"| {name} ({len(part)}) | {seconds:.2f} | {resident:.0f}, {own:.0f} |")
    if found.get("sizes"):
        lines += ["", "| frames, pixels, chunk | condition, sample, decode: seconds | own MB |",
                  "|---|---|---|"]
        lines += [f"| {key} | {row['condition']}, {row['sample']}, {row['decode']} |"
                  f" {row['own_mb']:.0f} |" for key, row in found["sizes"].items()]
    if found.get("batch"):
        lines += ["", "| images at a time | seconds an image | images a second, times 1's |",
                  "|---|---|---|"]
        lines += [f"| {count} | {row['seconds_per_image']} | {row['images_per_second']} |"
                  for count, row in found["batch"].items()]
    return "\n".join(lines)


def panel(title, x, curves, width=640, height=300):
    """Return a diagram (H, W, 3) uint8 of two curves over x, each with an axis that begins at 0.

    curves: [(name, values)], the first blue with the left axis, the second orange with the right.
    """
    picture = np.full((height, width, 3), 255, np.uint8)
    left, right, top, bottom = 60, width - 60, 50, height - 40
    x = np.asarray(x, float)

    def words(said, place, color=INK):
        cv2.putText(picture, said, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)

    across = left + (x - x.min()) / max(np.ptp(x), 1) * (right - left)
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = round(bottom - share * (bottom - top))
        cv2.line(picture, (left, y), (right, y), LIGHT, 1)
    words(title, (left, 18))
    places = (BLUE, 8, left), (ORANGE, right + 6, left + 280)
    for (name, values), (color, edge, place) in zip(curves, places):
        values = np.asarray(values, float)
        most = max(values.max(), 1e-9) * 1.1
        points = np.stack([across, bottom - values / most * (bottom - top)], 1)
        points = points.round().astype(np.int32)
        cv2.polylines(picture, [points], False, color, 1, cv2.LINE_AA)
        for point in points if len(points) <= 12 else ():
            cv2.circle(picture, tuple(map(int, point)), 3, color, -1, cv2.LINE_AA)
        for share in (0, 0.5, 1):
            words(f"{share * most:.3g}", (edge, round(bottom - share * (bottom - top)) + 4), color)
        words(name, (place, 38), color)
    for at in (x.min(), x.max()):
        words(f"{at:g}", (round(left + (at - x.min()) / max(np.ptp(x), 1) * (right - left)) - 8,
                          bottom + 18))
    return picture


def figure(found):
    """Return the diagrams of all that was measured, one below the other; None without any."""
    panels = []
    rows = [(k, row) for k, row in enumerate(found.get("images", []), 1)
            if k > 1 and row["session"] == found["images"][k - 2]["session"]]
    if rows:
        numbers, rows = zip(*rows)
        panels.append(panel("images of one run, without the first, which compiles", numbers, [
            ("seconds an image", [row["seconds"] for row in rows]),
            ("resident memory, MB", [row["resident_mb"] for row in rows])]))
    for name in SIZES:
        others = {key: value for key, value in USUAL.items() if key != name}
        rows = sorted((row for row in found.get("sizes", {}).values()
                       if all(row[key] == value for key, value in others.items())),
                      key=lambda row: row[name])
        if len(rows) > 1:
            fixed = ", ".join(f"{key} {value}" for key, value in others.items())
            panels.append(panel(f"over {name} ({fixed})", [row[name] for row in rows], [
                ("seconds: sample and decode", [row["sample"] + row["decode"] for row in rows]),
                ("own memory, MB", [row["own_mb"] for row in rows])]))
    return np.concatenate(panels) if panels else None


def parse(argv):
    """Return the command line's arguments."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("parts", nargs="+", choices=("images", "sizes", "batch", "all"), help="what to measure")
    add("--count", type=int_range(2, 999), default=200, help="images (default: %(default)s)")
    add("--repeat", type=int_range(1, 1000), default=15,
        help="runs of each batch after the first (default: %(default)s)")
    add("--few", action="store_true", help="two sizes only, for a trial")
    add("--work", type=Path, default=Path("runs/scale"), metavar="DIR",
        help="folder of pictures, views and results (default: %(default)s)")
    return parser.parse_args(argv)


def read(file):
    """Return what an earlier run has measured. Raises InputError if the file is none of ours."""
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
    except ValueError:
        raise InputError(f"{file}: found no results of scale.py, expected them; move it, or give"
                         " another --work") from None
    return found


def main(argv=None):
    """Run the command line; return the exit code."""
    args = parse(argv)
    os.environ.setdefault("GLOG_v", "3")
    args.work.mkdir(parents=True, exist_ok=True)
    file = args.work / "scale.json"
    found, code = read(file), 0
    found["cores"] = sorted(os.sched_getaffinity(0))

    def keep():
        with atomic(file) as path:
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    for part in (images, sizes, batch):
        if part.__name__ in args.parts or "all" in args.parts:
            try:
                part(args, found, keep)
            except InputError as error:         # the other parts do not need it
                print(f"scale.py: {part.__name__}: {error}", file=sys.stderr)
                code = 1
    picture = figure(found)
    if picture is not None:
        save_png(args.work / "scale.png", picture)
    print(text(found))
    return code


def run(argv=None):
    """Run `main` with errors as one line and an exit code."""
    return exit_code("scale.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
