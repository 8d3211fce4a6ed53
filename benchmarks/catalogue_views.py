#!/usr/bin/env python3
"""Compare generated views of catalogue objects with what the training objects alone would give.

  python tools/held_back.py --catalogue furniture/*.sh3f --ckpt WEIGHTS --output runs/real
  python benchmarks/catalogue_views.py runs/real --catalogue furniture/*.sh3f --bank runs/bank

The nearest neighbor of an input view is found among all training objects, each seen from 24
azimuths and 3 elevations (--bank keeps these pictures, 530 MB), by the error over both silhouettes
at 64 pixels; it is then rendered from the same cameras, turned as it was found. A model that does
not beat it may have learned its training objects by heart.

Printed are means over objects, each with its two inputs: of all; of those among the half whose
orbits vary most (lowest PSNR of the mean of the true orbit); of each category; then the same of the
objects without a sibling in the training split. In the folder are written nearest/ (views folders,
kept for the same bank), objects.csv, and best.png and worst.png, ten objects each by the gain over
the nearest neighbor: truth, prediction, nearest neighbor, input view first; best_alone.png and
worst_alone.png are of the objects without a sibling.
"""
from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from _evaluation import (  # noqa: E402
    MEAN,
    PREDICTION,
    REPEATED,
    evaluate_object,
    matched,
    read_views,
    thumbs,
)

from sgm.common.arrays import read_npy  # noqa: E402
from sgm.common.cli import Arguments, check_folder, exit_code  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.locks import locked  # noqa: E402
from sgm.common.progress import each  # noqa: E402
from sgm.render.catalogue import (  # noqa: E402
    catalogue_items,
    check_whole,
    object_name,
    read_list,
    with_sibling,
)
from sgm.render.framing import normalized, viewing_distance  # noqa: E402
from sgm.render.primitives import rotated  # noqa: E402
from sgm.render.sets.folders import write_pictures  # noqa: E402
from sgm.render.sets.row_names import object_of  # noqa: E402
from sgm.render.zbuffer import STUDIO, render_views  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import FOV_DEG, Orbit  # noqa: E402
from sgm.views.images import save_png  # noqa: E402
from sgm.views.transforms import read_orbit, write_transforms  # noqa: E402

AZIMUTHS, ELEVATIONS = tuple(range(0, 360, 15)), (0.0, 10.0, 30.0)
SIDE = 64                       # pixels of a bank's picture
NEAREST, OFF = "nearest neighbor", "one view off"
SHOWN = 10                      # objects on a sheet


# --- the nearest neighbor -------------------------------------------------------------------------

def object_views(mesh, yaw, orbit, size):
    """Return the views (T, size, size, 4) of a mesh turned by `yaw` degrees, and their distance.

    They are drawn as `render_orbits.py` draws the objects of the catalogue.
    """
    mesh = normalized(rotated(mesh, yaw), "sphere")
    distance = viewing_distance(mesh, orbit)
    return render_views(mesh, orbit.poses(distance), size, FOV_DEG, lighting=STUDIO), distance


def bank_record(items):
    """Return what a bank of these (name, object) notes of itself, as a text."""
    return json.dumps([AZIMUTHS, ELEVATIONS, SIDE, [name for name, _ in items]])


def bank_of(folder, items):
    """Return pictures of training objects, (N, azimuths * elevations, SIDE * SIDE * 3) uint8.

    They are rendered into `folder` unless they are there. Raises InputError for a bank of others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record, path = folder / "bank.json", folder / "bank.npy"
    wanted = bank_record(items)
    shape = len(items), len(AZIMUTHS) * len(ELEVATIONS), SIDE * SIDE * 3
    if record.exists() and record.read_text(encoding="utf-8") != wanted:
        raise InputError(f"--bank {folder}: holds pictures of other objects; give another folder")
    if not path.exists():
        record.write_text(wanted, encoding="utf-8")
        # all elevations at one azimuth: what turns is the object, under lights that stay
        orbit = Orbit.from_lists([0.0] * len(ELEVATIONS), ELEVATIONS)
        with atomic(path, name=f"--bank {folder}") as temporary:
            bank = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            for row, (_, source) in enumerate(each(items, "training objects", "object")):
                mesh = source.load()
                views = [object_views(mesh, yaw, orbit, SIDE)[0] for yaw in AZIMUTHS]
                bank[row] = on_white(np.concatenate(views)).reshape(shape[1:])
            bank.flush()
    return read_npy(path, "r")


def on_white(views):
    """Return views (T, H, W, 3 or 4) uint8 on white, (T, H, W, 3) uint8."""
    return np.round(metrics.on_white(views) * 255).astype(np.uint8)


def nearest(bank, inputs):
    """Return the (object, view) in the bank of each of the inputs (N, SIDE, SIDE, 3) uint8."""
    wanted = inputs.reshape(len(inputs), -1).astype(np.float32) / 255
    best = np.full(len(inputs), np.inf)
    found = np.zeros((len(inputs), 2), int)
    shown = _covered(wanted)
    for number, pictures in enumerate(bank):
        pictures = pictures.astype(np.float32) / 255
        covered = _covered(pictures)
        # outside both silhouettes there is no error
        error = (np.square(wanted).sum(1)[:, None] + np.square(pictures).sum(1)
                 - 2 * wanted @ pictures.T)
        union = shown.sum(1)[:, None] + covered.sum(1) - shown @ covered.T
        error = error / np.maximum(union, 1)
        view = error.argmin(1)
        better = error.min(1) < best
        found[better] = np.stack([np.full(better.sum(), number), view[better]], 1)
        best[better] = error.min(1)[better]
    return found


def _covered(pictures):
    """Return where pictures (N, SIDE * SIDE * 3) in [0, 1] are not white, (N, SIDE * SIDE)."""
    limit = 1 - metrics.WHITE_TOLERANCE / 255
    return (pictures.reshape(len(pictures), -1, 3) < limit).any(-1).astype(np.float32)


def add_nearest(folder, names, items, bank):
    """Write folder/nearest/NAME, the orbit of each test object's nearest neighbor, if missing.

    The bank's record lies beside them. Raises InputError if those that are there are of another.
    """
    made, wanted = folder / "nearest", bank_record(items)
    record = made / "bank.json"
    found = record.read_text(encoding="utf-8", errors="replace") if record.exists() else None
    if found != wanted and made.exists() and any(made.iterdir()):
        raise InputError(f"{made}: holds neighbors from another bank, expected those of the"
                         f" {len(items)} objects of --bank; remove that folder")
    made.mkdir(parents=True, exist_ok=True)
    with atomic(record) as temporary:
        temporary.write_text(wanted, encoding="utf-8")
    missing = [name for name in names if not (made / name).exists()]
    if not missing:
        return
    truths = [read_views(folder / "truth" / name) for name in missing]
    inputs = np.stack([cv2.resize(on_white(truth[-1:])[0], (SIDE, SIDE),
                                  interpolation=cv2.INTER_AREA) for truth in truths])
    for name, truth, (number, view) in each(list(zip(missing, truths, nearest(bank, inputs))),
                                            "nearest neighbors", "object"):
        orbit = read_orbit(folder / "truth" / name)
        yaw = AZIMUTHS[view // len(ELEVATIONS)]
        views, distance = object_views(items[number][1].load(), yaw, orbit, truth.shape[1])
        with atomic(made / name) as temporary:
            write_pictures(temporary, views)
            write_transforms(temporary, orbit, truth.shape[1], distance=distance)


# --- tables ---------------------------------------------------------------------------------------

def per_object(results):
    """Return {object: {method: mean metrics over its inputs and views}} of {name: methods}."""
    grouped = {}
    for name, methods in results.items():
        grouped.setdefault(object_of(name), []).append(
            {method: metrics.mean_metrics(views) for method, views in methods.items()})
    return {name: {method: metrics.mean_metrics([inputs[method] for inputs in found])
                   for method in found[0]} for name, found in grouped.items()}


def gain(objects, method):
    """Return how far PSNR_fg of the predictions is above that of a method, dB, for each object."""
    return np.array([found[PREDICTION]["psnr_fg"] - found[method]["psnr_fg"]
                     for found in objects.values()])


def summary(title, objects):
    """Return the lines on a set of objects."""
    lines = [f"{title}: {len(objects)} objects",
             f"  {'':24s} {'PSNR_fg':>8s} {'median':>8s} {'IoU':>7s} {'gain':>7s} {'median':>7s}"]
    for method in next(iter(objects.values())):
        values = np.array([(found[method]["psnr_fg"], found[method]["iou"])
                           for found in objects.values()])
        over = gain(objects, method)
        lines.append(f"  {method:24s} {values[:, 0].mean():8.2f} {np.median(values[:, 0]):8.2f}"
                     f" {values[:, 1].mean():7.3f} {over.mean():+7.2f} {np.median(over):+7.2f}")
    errors = {method: np.mean([1 - found[method]["iou"] for found in objects.values()])
              for method in (PREDICTION, REPEATED)}
    lines.append(f"  better than the nearest neighbor: {np.mean(gain(objects, NEAREST) > 0):.0%};"
                 f" silhouette error {errors[PREDICTION] / errors[REPEATED]:.2f} times that of the"
                 " input repeated")
    return lines


def categories(title, objects):
    """Return the lines of the table of categories of a set of objects."""
    kinds = {object_name(row): row["category"] for row in read_list()}
    lines = [f"categories, {title}",
             f"{'category':16s} {'objects':>8s} {'PSNR_fg':>8s} {'IoU':>7s} {'nearest':>8s}"
             f" {'mean':>7s}   (gain over nearest neighbor, mean of the orbit)"]
    for kind in sorted({kinds[name] for name in objects}):
        part = {name: found for name, found in objects.items() if kinds[name] == kind}
        means = metrics.mean_metrics([found[PREDICTION] for found in part.values()])
        lines.append(f"{kind:16s} {len(part):8d} {means['psnr_fg']:8.2f} {means['iou']:7.3f}"
                     f" {gain(part, NEAREST).mean():+8.2f} {gain(part, MEAN).mean():+7.2f}")
    return lines


def tables(title, objects, varied):
    """Return the lines of all tables of a set of objects. varied: names, perhaps of more objects.
    """
    lines = summary(title, objects)
    part = {name: found for name, found in objects.items() if name in varied}
    if part:
        lines += summary(f"orbits that vary most, {title}", part)
    return lines + categories(title, objects)


def sheet(folder, names):
    """Return a picture of the first input of objects: truth, prediction, nearest neighbor."""
    rows = []
    for name in names:
        truth = read_views(folder / "truth" / name)
        rows += [thumbs(read_views(folder / part / name, truth))
                 for part in ("truth", "prediction", "nearest")]
        rows.append(np.full((8, rows[-1].shape[1], 3), 255, np.uint8))
    return np.concatenate(rows[:-1])


def compare(args):
    """Find the nearest neighbors, print the tables, write the sheets; return the exit code."""
    folder = args.folder
    pairs = matched(folder / "prediction", folder / "truth")
    unknown = {object_of(name) for name, _, _ in pairs} - set(map(object_name, read_list()))
    if unknown:
        raise InputError(f"{folder}: {min(unknown) or pairs[0][0]} is no object of the catalogue;"
                         " give the folder of tools/held_back.py --catalogue")
    check_whole(args.catalogue, "train", "--catalogue")
    items = catalogue_items(args.catalogue, "train")
    add_nearest(folder, [name for name, _, _ in pairs], items, bank_of(args.bank, items))
    others = {NEAREST: "nearest", OFF: "one_view_off"}
    results = {}
    for name, predicted, true in each(pairs, "measuring", "object"):
        results[name] = evaluate_object(predicted, true, {
            method: folder / part / name for method, part in others.items()})[2]
    objects = per_object(results)
    with (atomic(folder / "objects.csv") as temporary,
          open(temporary, "w", newline="", encoding="utf-8") as file):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["object", "method", *metrics.METRICS])
        for name, methods in objects.items():
            writer.writerows([name, method, *(f"{found[key]:.6g}" for key in metrics.METRICS)]
                             for method, found in methods.items())
    varied = sorted(objects, key=lambda name: objects[name][MEAN]["psnr_fg"])[:len(objects) // 2]
    known, first = with_sibling(objects), {object_of(name): name for name, _, _ in reversed(pairs)}
    alone = {name: found for name, found in objects.items() if name not in known}
    for title, end, part in (("all", "", objects), ("without a sibling", "_alone", alone)):
        if not part:
            continue
        print("\n".join(tables(title, part, varied)))
        order = [first[list(part)[k]] for k in np.argsort(gain(part, NEAREST))]
        save_png(folder / f"worst{end}.png", sheet(folder, order[:SHOWN]))
        save_png(folder / f"best{end}.png", sheet(folder, order[::-1][:SHOWN]))
    return 0


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="what tools/held_back.py --catalogue has written")
    add("--catalogue", nargs="+", required=True, metavar="FILE.sh3f", help="the libraries")
    add("--bank", type=Path, required=True, help="folder of the training objects' pictures")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    check_folder(args.bank, "--bank")
    with locked(args.folder, "folder"):
        return compare(args)


if __name__ == "__main__":
    sys.exit(exit_code("catalogue_views.py", main))
