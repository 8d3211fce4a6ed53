#!/usr/bin/env python3
"""Measure generated views against true ones, or a mesh against the true one.

  evaluate.py views outputs/run data/held_back --csv run.csv --sheet run.png
  evaluate.py views outputs/duck objects/duck/static --wrong-poses outputs/duck_quarter_turn_off
  evaluate.py mesh outputs/duck/mesh.glb objects/duck/mesh.ply --json duck.json
  evaluate.py mesh outputs/duck/mesh.glb objects/duck/mesh.ply --views objects/duck/dynamic

PRED and GT are views folders (000.png ..., the input view last) or folders of views folders, matched by name.  The
input view is not counted.  PSNR (dB), PSNR over the union of both silhouettes, SSIM, silhouette IoU: mean over views,
then over objects.  Beside the prediction stand the baselines made from GT: the input repeated, and the mean of the true
orbit, which knows the answer but no pose; a model that does not beat it has learned no geometry.

mesh: both in one world, z up, the true one inside [-0.5, 0.5]^3; --up tells the prediction's up axis.  Chamfer distance
(mean distance there plus back, 10000 points each against 500000; 0.002 is left between equal meshes), F-score at 0.01 and
0.02, normal consistency, IoU of the volumes on voxels of 1/64.  --views: the prediction, its texture unlit, from the
cameras of a views folder in the same world against its pictures, the figures of `views`; hold these views back before.
Exit code: 0 done, 2 wrong input, 130 interrupted.
"""
from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path

import _checkout  # noqa: F401 - first: finds this checkout's sgm
import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from sgm.common.cli import (
    Arguments,
    exit_code,
)
from sgm.common.errors import InputError, os_reason
from sgm.common.files import atomic
from sgm.geometry import metrics as mesh_metrics
from sgm.geometry.mesh_reader import load_mesh
from sgm.reconstruct import posed_views as shape_views
from sgm.reconstruct import report
from sgm.views import metrics
from sgm.views.cameras import angle_list
from sgm.views.images import read_image
from sgm.views.transforms import entries, read_json

THUMB = 96              # pixels per view in the contact sheet
PREDICTION, REPEATED, MEAN = "prediction", "input repeated", "mean of true orbit"


def view_files(folder: Path) -> list[Path]:
    """000.png, 001.png, ... of a views folder, in order; other pictures beside them are left alone."""
    return sorted(p for p in folder.glob("*.png") if p.stem.isdigit())


def views_folders(path: Path) -> dict[str, Path]:
    """A views folder -> {'': path}; a folder of them -> {name: folder}."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a views folder (000.png ...) or a folder of them")
    if view_files(path):
        return {"": path}
    found = {p.name: p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".") and view_files(p)}
    if not found:
        raise InputError(f"{path}: has no views (000.png ...), nor have the folders in it")
    return found


def matched(prediction: Path, truth: Path) -> list[tuple[str, Path, Path]]:
    """(name, predicted folder, true folder) of every object predicted."""
    predicted, true = views_folders(prediction), views_folders(truth)
    if "" in predicted and "" in true:
        return [(prediction.resolve().name, prediction, truth)]
    if "" in predicted or "" in true:
        one, many = (prediction, truth) if "" in predicted else (truth, prediction)
        raise InputError(f"{one} is one views folder, but {many} holds {len(views_folders(many))}; give two of a kind")
    strangers = sorted(set(predicted) - set(true))
    if strangers:
        raise InputError(f"{prediction / strangers[0]}: {truth} has no folder of that name to compare it with "
                         f"({len(strangers)} such of {len(predicted)})")
    return [(name, predicted[name], true[name]) for name in predicted]


def read_views(folder: Path, like: np.ndarray | None = None) -> np.ndarray:
    """The views -> uint8 (T, H, W, 3 or 4); resized (Lanczos) to the size of `like`, whose number they must have."""
    files = view_files(folder)
    if like is not None and len(files) != len(like):
        raise InputError(f"{folder}: has {len(files)} views, the truth has {len(like)}; give orbits of the same "
                         "cameras")
    views = []
    for file in files:
        image = read_image(file, lambda image: image.convert(
            "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"))
        if like is not None and image.size != like.shape[2:0:-1]:
            image = image.resize(like.shape[2:0:-1], Image.LANCZOS)
        views.append(np.asarray(image))
    if len({view.shape for view in views}) > 1:
        raise InputError(f"{folder}: its views differ in size or in having alpha; they must be alike")
    if len(views) < 2 or min(views[0].shape[:2]) < 7:
        raise InputError(f"{folder}: has {len(views)} views of {views[0].shape[1]} x {views[0].shape[0]} pixels; "
                         "expected at least 2, of 7 x 7 or more")
    return np.stack(views)


def azimuths(folder: Path) -> np.ndarray | None:
    """The views' azimuths in degrees, if the folder's transforms.json tells them."""
    if not (folder / "transforms.json").exists():
        return None
    file, data = read_json(folder)
    frames = entries(file, data, "frames")
    if not all(isinstance(frame, dict) and "azimuth_deg" in frame for frame in frames):
        return None        # a transforms.json of another program: poses, but no azimuths to compare
    return angle_list([frame["azimuth_deg"] for frame in frames], f"{file}: azimuth_deg")


def check_cameras(predicted: Path, true: Path):
    """Refuse to compare views from different sides."""
    a, b = azimuths(predicted), azimuths(true)
    if a is not None and b is not None and len(a) == len(b):
        apart = np.abs((a - b + 180) % 360 - 180)
        if apart.max() > 0.5:
            k = int(apart.argmax())
            raise InputError(f"{predicted}: view {k} is at azimuth {a[k]:.1f}, that of {true} at {b[k]:.1f}; generate "
                             "the truth's orbit (or put views of wrong poses under --wrong-poses)")


def evaluate_object(predicted: Path, true: Path, wrong: dict[str, Path]):
    """-> the views (prediction, truth) and per method the metrics of every view. wrong: {method: views folder}."""
    check_cameras(predicted, true)
    truth = read_views(true)
    prediction = read_views(predicted, truth)
    methods = {PREDICTION: prediction, REPEATED: metrics.input_repeated(truth), MEAN: metrics.mean_of_orbit(truth)}
    methods.update({method: read_views(folder, truth) for method, folder in wrong.items()})
    return prediction, truth, {method: metrics.compare_orbit(views, truth) for method, views in methods.items()}


def thumbs(views: np.ndarray) -> np.ndarray:
    """Views (T, H, W, C) -> one row of thumbnails (THUMB, T * THUMB, 3) uint8, the input view first."""
    order = [len(views) - 1, *range(len(views) - 1)]
    images = [np.round(metrics.on_white(views[k]) * 255).astype(np.uint8) for k in order]
    shrink = cv2.INTER_AREA if views.shape[1] > THUMB else cv2.INTER_NEAREST
    return np.concatenate([cv2.resize(image, (THUMB, THUMB), interpolation=shrink) for image in images], axis=1)


def save_bytes(path: Path, data: bytes):
    """Write a file whole or not at all."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file to write; give another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {os_reason(error)}") from None
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """The printed table: every object's prediction, the means of every method, and what they say."""
    line = "{:24s} {:>8s} {:>8s} {:>7s} {:>7s}".format
    rows = [line("", "PSNR", "PSNR_fg", "SSIM", "IoU")]

    def row(name, m):
        rows.append(line(name[:24], f"{m['psnr']:.2f}", f"{m['psnr_fg']:.2f}", f"{m['ssim']:.3f}", f"{m['iou']:.3f}"))
    if len(results) > 1:
        for name, methods in results.items():
            row(name, metrics.mean_metrics(methods[PREDICTION]))
        rows.append(f"mean of {len(results)} objects")
    methods = next(iter(results.values()))
    means = {method: metrics.mean_metrics([metrics.mean_metrics(r[method]) for r in results.values()])
             for method in methods}
    for method, mean in means.items():
        row(method, mean)
    prediction = means[PREDICTION]
    said = [f"{prediction['psnr_fg'] - means[m]['psnr_fg']:+.2f} dB over {m}" for m in means if m != PREDICTION]
    rows.append("PSNR_fg of the prediction: " + ", ".join(said))
    if means[REPEATED]["iou"] < 1:
        ratio = (1 - prediction["iou"]) / (1 - means[REPEATED]["iou"])
        rows.append(f"silhouette error (1 - IoU) of the prediction: {ratio:.2f} times that of the input repeated")
    return "\n".join(rows)


def wrong_folders(folder: Path, truth: Path, pairs) -> dict[str, Path]:
    """{name: views folder} of the views in `folder`, which were told wrong poses, for every name of `pairs`."""
    found = {name: path for name, path, _ in matched(folder, truth)}
    if len(pairs) == 1 and len(found) == 1:
        return {pairs[0][0]: next(iter(found.values()))}
    missing = [name for name, _, _ in pairs if name not in found]
    if missing:
        raise InputError(f"--wrong-poses {folder}: has no folder {missing[0]}; predict the same objects in it")
    return found


def views_command(args) -> int:
    pairs = matched(args.prediction, args.truth)
    wrong = [wrong_folders(folder, args.truth, pairs) for folder in args.wrong_poses]
    results, sheet = {}, []
    for name, predicted, true in tqdm(pairs, unit="object", disable=len(pairs) < 3):
        prediction, truth, results[name] = evaluate_object(predicted, true, {
            folder.name.replace("_", " "): of[name] for folder, of in zip(args.wrong_poses, wrong)})
        if args.sheet:
            sheet += [thumbs(truth), thumbs(prediction), np.full((8, len(truth) * THUMB, 3), 255, np.uint8)]
    print(table(results))       # before what may fail
    if args.csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["object", "method", "view", *metrics.METRICS])
        for name, methods in results.items():
            for method, views in methods.items():
                writer.writerows([name, method, k, *(f"{v[key]:.6g}" for key in metrics.METRICS)]
                                 for k, v in enumerate(views))
        save_bytes(args.csv, text.getvalue().encode())
    if args.sheet:
        width = max(row.shape[1] for row in sheet)     # orbits of different objects may differ in length
        sheet = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in sheet[:-1]]
        picture = io.BytesIO()
        Image.fromarray(np.concatenate(sheet)).save(picture, "PNG")
        save_bytes(args.sheet, picture.getvalue())
    return 0


def mesh_command(args) -> int:
    parts = []
    for path, up in ((args.prediction, args.up), (args.truth, "z")):
        mesh = load_mesh(path, up)
        try:
            parts.append(mesh_metrics.prepared(mesh.vertices, mesh.faces))
        except ValueError as error:
            raise InputError(f"{path}: {error}; give a mesh with a surface") from None
    figures = mesh_metrics.compare(*parts)
    if args.views:
        figures["views"] = seen_from(args.prediction, args.up, args.views)
    print(mesh_table(figures))      # before what may fail
    if args.json:
        told = dict(pred=str(args.prediction), gt=str(args.truth), pred_up=args.up)
        save_bytes(args.json, json.dumps(told | figures, indent=1).encode())
    return 0


def seen_from(prediction: Path, up: str, folder: Path) -> dict[str, float]:
    """Mean figures of a mesh drawn from the cameras of a views folder, the input view not counted."""
    true = shape_views.read_views(folder)
    true = true.subset(np.arange(len(true) - 1))
    renders = report.render_like(load_mesh(prediction, up), true)
    return metrics.mean_metrics([metrics.compare(*pair) for pair in zip(renders, report.pictures(true))])


def mesh_table(m: dict) -> str:
    """The printed figures of a mesh."""
    line = "{:28s} {}".format
    closed = "watertight" if m["pred_watertight"] else f"{m['pred_boundary_edges']} boundary edges"
    rows = [line("Chamfer L1", f"{m['chamfer_l1']:.4f} (to truth {m['pred_to_gt']:.4f}, from truth {m['gt_to_pred']:.4f})")]
    for t in mesh_metrics.THRESHOLDS:
        precision, recall = m[f"precision_{t:g}"], m[f"recall_{t:g}"]
        rows.append(line(f"F-score at {t:g}", f"{m[f'fscore_{t:g}']:.3f} (precision {precision:.3f}, recall {recall:.3f})"))
    rows += [line("normal consistency", f"{m['normal_consistency']:.3f} (signed {m['normal_consistency_signed']:.3f})"),
             line("volume IoU", f"{m['iou']:.3f} ({m['iou_mode']}; volume {m['vol_pred']:.4f}, true {m['vol_gt']:.4f})"),
             line("prediction", f"{m['pred_faces']} faces, components: {m['pred_components']}, {closed}")]
    if "views" in m:
        v = m["views"]
        rows.append(line("seen from the views' cameras", f"PSNR {v['psnr']:.2f} dB, foreground {v['psnr_fg']:.2f} dB,"
                         f" SSIM {v['ssim']:.3f}, silhouette IoU {v['iou']:.3f}"))
    if m["chamfer_l1"] > 0.15:
        rows.append("The meshes are far apart: is --up right, and are both in the same world, inside [-0.5, 0.5]^3?")
    return "\n".join(rows)


def main(argv=None) -> int:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    views = commands.add_parser("views", help="PSNR, SSIM and silhouettes of views")
    views.add_argument("prediction", type=Path, metavar="PRED", help="views folder, or a folder of them")
    views.add_argument("truth", type=Path, metavar="GT", help="views folder, or a folder of them")
    views.add_argument("--wrong-poses", type=Path, nargs="+", default=[], metavar="DIR",
                       help="the same model's views when told other poses, called by DIR's name: shows whether it heeds them")
    views.add_argument("--csv", type=Path, metavar="FILE", help="write every view's figures")
    views.add_argument("--sheet", type=Path, metavar="FILE",
                       help="write a contact sheet: per object a row of truth and one of prediction, input view first")
    views.set_defaults(run=views_command)
    mesh = commands.add_parser("mesh", help="Chamfer distance, F-score, normals and IoU of a mesh")
    mesh.add_argument("prediction", type=Path, metavar="PRED", help="mesh file (glb, gltf, obj, ply, stl, off)")
    mesh.add_argument("truth", type=Path, metavar="GT", help="mesh file, z up")
    mesh.add_argument("--up", choices=("auto", "y", "z"), default="auto",
                      help="the prediction's up axis; auto: y for glb and gltf, else z (default: auto)")
    mesh.add_argument("--views", type=Path, metavar="DIR",
                      help="views folder: also measure the prediction as its cameras see it; the input view is not counted")
    mesh.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    mesh.set_defaults(run=mesh_command)
    args = parser.parse_args(argv)
    return args.run(args)


def run(argv=None) -> int:
    """`main` with errors as one line and an exit code."""
    return exit_code("evaluate.py", main, argv)


if __name__ == "__main__":
    sys.exit(run())
