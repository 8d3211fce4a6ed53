"""Measures views folders and meshes: the figures and tables of `evaluate.py`."""
from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sgm.common.errors import InputError, os_reason
from sgm.common.files import atomic, natural_key
from sgm.common.progress import each
from sgm.geometry import metrics as mesh_metrics
from sgm.geometry.mesh_reader import load_mesh
from sgm.reconstruct import report, views_reader
from sgm.render.catalogue import with_sibling
from sgm.render.visible import OuterSurface
from sgm.views import metrics
from sgm.views.cameras import angle_list
from sgm.views.images import read_image, to_rgba
from sgm.views.transforms import entries, read_json

THUMB = 96              # pixels per view in the contact sheet
PREDICTION, REPEATED, MEAN = "prediction", "input repeated", "mean of true orbit"


def view_files(folder: Path) -> list[Path]:
    """Return 000.png, 001.png, ... of a views folder, in order.

    Other pictures in it are ignored.
    """
    return sorted((p for p in folder.glob("*.png") if p.stem.isdigit()), key=natural_key)


def views_folders(path: Path) -> dict[str, Path]:
    """Return {'': path} of a views folder, {name: folder} of a folder of them.

    Raises InputError.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give a views folder (000.png ...) or a folder of"
                         " them")
    if view_files(path):
        return {"": path}
    found = {
        p.name: p for p in sorted(path.iterdir())
        if p.is_dir() and not p.name.startswith(".") and view_files(p)
    }
    if not found:
        raise InputError(f"{path}: has no views (000.png ...), nor have the folders in it")
    return found


def object_of(name: str, true) -> str:
    """Return the name among `true` that a predicted folder stands for.

    That is its own, or that of its image: simple_video_sample.py writes <image>_<seed>.
    """
    image, _, seed = name.rpartition("_")
    return image if name not in true and seed.isdigit() and image in true else name


def matched(prediction: Path, truth: Path) -> list[tuple[str, Path, Path]]:
    """Return (name, predicted folder, true folder) of every predicted object. Raises InputError.

    Folders have the same names, or the predicted one its seed behind it: cup_23 of cup.
    """
    predicted, true = views_folders(prediction), views_folders(truth)
    if "" in predicted and "" in true:
        return [(prediction.resolve().name, prediction, truth)]
    if "" in predicted or "" in true:
        one, many = (prediction, truth) if "" in predicted else (truth, prediction)
        raise InputError(f"{one} is one views folder, but {many} holds {len(views_folders(many))};"
                         " give two of a kind")
    pairs = {name: object_of(name, true) for name in predicted}
    unmatched = sorted(name for name, of in pairs.items() if of not in true)
    if unmatched:
        raise InputError(f"{prediction / unmatched[0]}: {truth} has no folder of that name to"
                         f" compare it with, nor of its image ({len(unmatched)} such of"
                         f" {len(predicted)})")
    return [(name, predicted[name], true[of]) for name, of in pairs.items()]


def read_views(folder: Path, like: np.ndarray | None = None) -> np.ndarray:
    """Return the views, uint8 (T, H, W, 3 or 4).

    They are resized (Lanczos) to the size of `like`, whose number they must have. Raises
    InputError.
    """
    files = view_files(folder)
    if like is not None and len(files) != len(like):
        raise InputError(f"{folder}: has {len(files)} views, the truth has {len(like)}; give orbits"
                         " of the same cameras")
    views = []
    for file in files:
        image = read_image(file, lambda image: to_rgba(image, file).convert(  # noqa: B023 - at once
            "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"))
        if like is not None and image.size != like.shape[2:0:-1]:
            image = image.resize(like.shape[2:0:-1], Image.LANCZOS)
        views.append(np.asarray(image))
    if len({view.shape for view in views}) > 1:
        raise InputError(f"{folder}: its views differ in size or in having alpha; they must be"
                         " alike")
    if len(views) < 2 or min(views[0].shape[:2]) < 7:
        raise InputError(f"{folder}: has {len(views)} views of {views[0].shape[1]} x"
                         f" {views[0].shape[0]} pixels; expected at least 2, of 7 x 7 or more")
    return np.stack(views)


def azimuths(folder: Path) -> np.ndarray | None:
    """Return the views' azimuths in degrees, or None if transforms.json does not hold them."""
    if not (folder / "transforms.json").exists():
        return None
    file, data = read_json(folder)
    frames = entries(file, data, "frames")
    if not all(isinstance(frame, dict) and "azimuth_deg" in frame for frame in frames):
        return None        # a transforms.json of another program: poses, but no azimuths to compare
    return angle_list([frame["azimuth_deg"] for frame in frames], f"{file}: azimuth_deg")


def check_cameras(predicted: Path, true: Path):
    """Raise InputError for views from different sides."""
    a, b = azimuths(predicted), azimuths(true)
    if a is not None and b is not None and len(a) == len(b):
        apart = np.abs((a - b + 180) % 360 - 180)
        if apart.max() > 0.5:
            k = int(apart.argmax())
            raise InputError(f"{predicted}: view {k} is at azimuth {a[k]:.1f}, that of {true} at"
                             f" {b[k]:.1f}; generate the truth's orbit (or put views of wrong poses"
                             " under --wrong-poses)")


def evaluate_object(predicted: Path, true: Path, wrong: dict[str, Path]):
    """Return the views (prediction, truth) and per method the metrics of every view.

    wrong: {method: views folder}.
    """
    check_cameras(predicted, true)
    truth = read_views(true)
    prediction = read_views(predicted, truth)
    methods = {
        PREDICTION: prediction, REPEATED: metrics.input_repeated(truth),
        MEAN: metrics.mean_of_orbit(truth)
    }
    methods.update({method: read_views(folder, truth) for method, folder in wrong.items()})
    return prediction, truth, {
        method: metrics.compare_orbit(views, truth) for method, views in methods.items()
    }


def thumbs(views: np.ndarray) -> np.ndarray:
    """Return one row of thumbnails (THUMB, T * THUMB, 3) uint8, the input view first.

    views: (T, H, W, C).
    """
    order = [len(views) - 1, *range(len(views) - 1)]
    images = [np.round(metrics.on_white(views[k]) * 255).astype(np.uint8) for k in order]
    shrink = cv2.INTER_AREA if views.shape[1] > THUMB else cv2.INTER_NEAREST
    return np.concatenate(
        [cv2.resize(image, (THUMB, THUMB), interpolation=shrink) for image in images], axis=1)


def save_bytes(path: Path, data: bytes):
    """Write a file whole or not at all. Raises InputError."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file to write; give another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {os_reason(error)}") from None
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def mean_of(results):
    """Return {method: mean figures over the objects} of results as `table` takes them."""
    return {method: metrics.mean_metrics([metrics.mean_metrics(r[method])
                                          for r in results.values()])
            for method in next(iter(results.values()))}


def table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Return the printed table: every object's prediction, the means of every method.

    Two lines below say how they compare. Of catalogue objects there are also the means of those
    that have no sibling in the training split.
    """
    line = "{:24s} {:>8s} {:>8s} {:>7s} {:>7s}".format
    rows = [line("", "PSNR", "PSNR_fg", "SSIM", "IoU")]

    def row(name, m):
        rows.append(
            line(name[:24], f"{m['psnr']:.2f}", f"{m['psnr_fg']:.2f}", f"{m['ssim']:.3f}",
                 f"{m['iou']:.3f}"))
    if len(results) > 1:
        for name, methods in results.items():
            row(name, metrics.mean_metrics(methods[PREDICTION]))
        rows.append(f"mean of {len(results)} objects")
    means = mean_of(results)
    for method, mean in means.items():
        row(method, mean)
    known = with_sibling(results)
    if 0 < len(known) < len(results):
        rows.append(f"mean of the {len(results) - len(known)} without a sibling in train")
        others = {name: methods for name, methods in results.items() if name not in known}
        for method, mean in mean_of(others).items():
            row(method, mean)
    prediction = means[PREDICTION]
    said = [f"{prediction['psnr_fg'] - means[m]['psnr_fg']:+.2f} dB over"
            f" {m}" for m in means if m != PREDICTION]
    rows.append("PSNR_fg of the prediction: " + ", ".join(said))
    if means[REPEATED]["iou"] < 1:
        ratio = (1 - prediction["iou"]) / (1 - means[REPEATED]["iou"])
        rows.append(f"silhouette error (1 - IoU) of the prediction: {ratio:.2f} times that of the"
                    " input repeated")
    return "\n".join(rows)


def wrong_folders(folder: Path, truth: Path, pairs) -> dict[str, Path]:
    """Return {name: views folder} of views conditioned on wrong poses.

    The names are those of `pairs`. Raises InputError.
    """
    found = {name: path for name, path, _ in matched(folder, truth)}
    if len(pairs) == 1 and len(found) == 1:
        return {pairs[0][0]: next(iter(found.values()))}
    missing = [name for name, _, _ in pairs if name not in found]
    if missing:
        raise InputError(f"--wrong-poses {folder}: has no folder {missing[0]}; predict the same"
                         " objects in it")
    return found


def evaluate_views(args) -> int:
    """Print, and save if asked to, the figures of predicted views; return the exit code."""
    pairs = matched(args.prediction, args.truth)
    wrong = [wrong_folders(folder, args.truth, pairs) for folder in args.wrong_poses]
    results, sheet = {}, []
    for name, predicted, true in each(pairs, "", "object", quiet=args.quiet or len(pairs) < 3):
        prediction, truth, results[name] = evaluate_object(predicted, true, {
            folder.name.replace("_", " "): of[name] for folder, of in zip(args.wrong_poses, wrong)})
        if args.sheet:
            sheet += [
                thumbs(truth),
                thumbs(prediction),
                np.full((8, len(truth) * THUMB, 3), 255, np.uint8)
            ]
    print(table(results))       # before what may fail
    if args.csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["object", "method", "view", *metrics.METRICS])
        for name, methods in results.items():
            for method, views in methods.items():
                writer.writerows([name, method, k, *(f"{v[key]:.6g}" for key in metrics.METRICS)]
                                 for k, v in enumerate(views))
        save_bytes(args.csv, text.getvalue().encode("utf-8", "backslashreplace"))
    if args.sheet:
        # orbits of different objects may differ in length
        width = max(row.shape[1] for row in sheet)
        sheet = [
            np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
            for row in sheet[:-1]
        ]
        picture = io.BytesIO()
        Image.fromarray(np.concatenate(sheet)).save(picture, "PNG")
        save_bytes(args.sheet, picture.getvalue())
    return 0


def evaluate_mesh(args) -> int:
    """Print, and save if asked to, the figures of a predicted mesh; return the exit code."""
    parts, as_read, outer = [], [], []
    for path, up in ((args.prediction, args.up), (args.truth, "z")):
        # a texture may have holes, to see through
        mesh = load_mesh(path, up, shape_only=not args.visible)
        as_read.append((mesh.vertices, mesh.faces))
        try:
            parts.append(mesh_metrics.prepared(mesh.vertices, mesh.faces))
        except ValueError as error:
            raise InputError(f"{path}: {error}; give a mesh with a surface") from None
        outer += [OuterSurface(mesh)] if args.visible else []
    figures = mesh_metrics.compare(*parts, outer=outer)
    figures["by_authors"] = mesh_metrics.by_authors(*as_read)
    if args.views:
        figures["views"] = seen_from(args.prediction, args.up, args.views)
    print(mesh_table(figures))      # before what may fail
    if args.json:
        inputs = dict(pred=str(args.prediction), gt=str(args.truth), pred_up=args.up)
        save_bytes(args.json, json.dumps(inputs | figures, indent=1).encode())
    return 0


def seen_from(prediction: Path, up: str, folder: Path) -> dict[str, float]:
    """Return the mean figures of a mesh drawn from the cameras of a views folder.

    The input view is not counted.
    """
    true = views_reader.read_views(folder)
    true = true.subset(np.arange(len(true) - 1))
    return report.view_metrics(load_mesh(prediction, up), true)


def mesh_table(m: dict) -> str:
    """Return the printed figures of a mesh."""
    line = "{:28s} {}".format
    closed = "watertight" if m["pred_watertight"] else f"{m['pred_boundary_edges']} boundary edges"
    rows = [line("Chamfer L1", f"{m['chamfer_l1']:.4f} (to truth {m['pred_to_gt']:.4f}, from truth"
                               f" {m['gt_to_pred']:.4f})")]
    for t in mesh_metrics.THRESHOLDS:
        precision, recall = m[f"precision_{t:g}"], m[f"recall_{t:g}"]
        rows.append(line(f"F-score at {t:g}", f"{m[f'fscore_{t:g}']:.3f} (precision"
                                              f" {precision:.3f}, recall {recall:.3f})"))
    rows += [line("normal consistency", f"{m['normal_consistency']:.3f} (signed"
                                        f" {m['normal_consistency_signed']:.3f})"),
             line("volume IoU", f"{m['iou']:.3f} ({m['iou_mode']}; volume {m['vol_pred']:.4f}, true"
                                f" {m['vol_gt']:.4f})"),
             line("prediction", f"{m['pred_faces']} faces, components: {m['pred_components']},"
                                f" {closed}")]
    if "views" in m:
        v = m["views"]
        rows.append(
            line(
                "seen from the views' cameras",
                f"PSNR {v['psnr']:.2f} dB, foreground {v['psnr_fg']:.2f} dB,"
                f" SSIM {v['ssim']:.3f}, silhouette IoU {v['iou']:.3f}"))
    authors = m["by_authors"]
    iou = "needs closed meshes" if authors["iou"] is None else f"{authors['iou']:.3f}"
    rows += ["By the protocol of SV3D's authors, not to be compared with the figures above:",
             line("  Chamfer, of vertices", f"{authors['chamfer']:.4f}"),
             line("  volume IoU", iou)]
    if m["chamfer_l1"] > 0.15:
        rows.append("The meshes are far apart: is --up right, and are both in the same world,"
                    " inside [-0.5, 0.5]^3?")
    return "\n".join(rows)
