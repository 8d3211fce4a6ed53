"""synthesize.py learn and keep: features of generated clips, labels, the filter's tables."""
import cv2
import numpy as np

from sgm.common.cli import check_folder
from sgm.common.errors import InputError
from sgm.common.locks import locked
from sgm.common.progress import each
from sgm.feedforward.clip_filter import (
    CORRUPTIONS,
    auc,
    clip_features,
    corrupted,
    fit_filter,
    frame_change,
    load_filter,
)
from sgm.feedforward.reconstructor import load_lrm
from sgm.render.families.named import procedural_object
from sgm.render.procedural import on_white
from sgm.render.sets.packing import begin_packed, finish_packed
from sgm.render.sets.row_names import next_other, objects_of_rows
from sgm.render.zbuffer import render_views
from sgm.train.data.packed import load_packed
from sgm.views.cameras import AZIMUTH_SIGN, DISTANCE, FOV_DEG, camera_to_world
from sgm.views.metrics import compare

STARTS = "starts.npy"
HULL = 48               # cells of the hull whose coverage is a baseline


def features_of(model, frames):
    """Return the features of a clip (T, H, W, 3) uint8 on white, by the encoder of a network."""
    side = model.spec.image_size
    images = np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
                       for frame in frames])
    return clip_features(model.encode(np.float32(images).transpose(0, 3, 1, 2) / 255))


def agreement(views, mesh, azimuths, elevations):
    """Return IoU times PSNR of generated views (T, S, S, 4) with the true ones, but the input's.

    mesh: the true object; angles (T,) in its world, degrees.
    """
    poses = camera_to_world(AZIMUTH_SIGN * azimuths, elevations, DISTANCE)
    truth = render_views(mesh, poses, views.shape[1], FOV_DEG)
    found = [compare(a, b) for a, b in zip(views[:-1], truth[:-1])]
    return float(np.mean([view["iou"] for view in found])
                 * np.mean([view["psnr_fg"] for view in found]))


def hull_coverage(views, azimuths, elevations):
    """Return how much of their silhouettes the views' common hull covers: views that agree."""
    from sgm.reconstruct.hull import scene_box, visual_hull
    from sgm.reconstruct.posed_views import HALF, PosedViews
    from sgm.views.cameras import focal_length
    rgba = np.float32(views) / 255
    size = rgba.shape[1]
    focal = focal_length(size)
    poses = camera_to_world(AZIMUTH_SIGN * azimuths, elevations, DISTANCE)
    posed = PosedViews(np.ascontiguousarray(rgba[..., :3] * rgba[..., 3:]),
                       np.ascontiguousarray(rgba[..., 3]), poses, focal, focal, size / 2, size / 2)
    sdf = visual_hull.closed(visual_hull.hull_sdf(posed, HULL, HALF, 0), HALF)
    return scene_box.coverage(sdf, posed)


def learn(args):
    """Train the filter and print its tables; return the exit code."""
    if args.out.is_dir():
        raise InputError(f"--out {args.out}: is a folder, expected a file to write; give its name")
    check_folder(args.out.parent, "--out")
    arrays = load_packed(args.set)
    names = np.load(args.set / "names.npy")
    clips, count = arrays["clips"], len(names)
    objects = objects_of_rows(names)
    if objects.max() < 7:
        raise InputError(f"{args.set}: found clips of {objects.max() + 1} objects, expected at"
                         " least 8: half of them are trained on")
    half = objects % 2 == 0                     # of the rows: all forms of an object are in one
    model = load_lrm(args.lrm_config, args.lrm)
    rng = np.random.default_rng(0)
    rows, kinds = [], []            # (features, change, coverage), and what each row is
    if args.corrupt:
        for k in each(range(count), "features", "clip", quiet=args.quiet):
            other = next_other(objects, k, half == half[k])
            frames, other = on_white(clips[k]), on_white(clips[other])
            for kind in ("as made", *CORRUPTIONS):
                made = frames if kind == "as made" else corrupted(kind, frames, other, rng)
                rows.append((features_of(model, made), frame_change(made)))
                kinds.append((k, kind))
        good = np.array([kind == "as made" for _, kind in kinds])
    else:
        shapes = [procedural_object(str(name)) for name in names]
        if None in shapes:
            raise InputError(f"{args.set}: found {names[shapes.index(None)]}, expected procedural"
                             " objects, whose names are seeds and whose true views can be rendered;"
                             " --corrupt needs none")
        if not (args.set / STARTS).is_file():
            raise InputError(f"{args.set}: found no {STARTS}, expected a set of synthesize.py clips"
                             " or keep; --corrupt needs none")
        starts, score = np.load(args.set / STARTS), []
        for k in each(range(count), "true views", "clip", quiet=args.quiet):
            azimuths = arrays["azimuths"][k] + starts[k]
            elevations = arrays["elevations"][k]
            frames = on_white(clips[k])
            rows.append((features_of(model, frames), frame_change(frames),
                         hull_coverage(clips[k], arrays["azimuths"][k], elevations)))
            score.append(agreement(clips[k], shapes[k].load(), azimuths, elevations))
            kinds.append((k, "as made"))
        good = np.array(score) >= np.quantile(score, 1 - args.good)
        print(f"agreement (IoU x PSNR): {np.mean(score):.2f}, good from"
              f" {np.quantile(score, 1 - args.good):.2f} on")
    trained = np.array([half[k] for k, _ in kinds])
    features = np.stack([row[0] for row in rows])
    if good[trained].all() or not good[trained].any():
        raise InputError(f"--good {args.good:g}: leaves one kind of clips, expected some good and"
                         " some bad ones")
    found = fit_filter(features[trained], good[trained], model.spec.name)
    held = ~trained
    print(f"{trained.sum()} clips trained on, {held.sum()} of other objects measured: area under"
          " the ROC curve")
    columns = {"filter": found.scores(features), "frames' change": np.array([r[1] for r in rows])}
    if not args.corrupt:
        columns["hull coverage"] = np.array([row[2] for row in rows])
    for name, values in columns.items():
        # whether a baseline's high or low values are good, the clips trained on tell
        low = name != "filter" and auc(values[trained], good[trained]) < 0.5
        values = -values if low else values
        line = f"{name + ', low' * low:19} {auc(values[held], good[held]):.3f}"
        if args.corrupt:
            for kind in CORRUPTIONS:
                pair = held & (good | np.array([kind == k for _, k in kinds]))
                line += f"   {kind} {auc(values[pair], good[pair]):.3f}"
        print(line)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    fit_filter(features, good, model.spec.name).save(args.out)
    print(f"{args.out}: the filter, of all clips")
    return 0


def keep(args):
    """Copy the clips that the filter takes for good into a set; return the exit code."""
    check_folder(args.out, "--out")
    with locked(args.out, "--out"):
        return keep_locked(args)


def keep_locked(args):
    """See `keep`."""
    chosen, arrays = load_filter(args.filter), load_packed(args.set)
    model = load_lrm(args.lrm_config, args.lrm)
    if chosen.name != model.spec.name:
        raise InputError(f"--filter {args.filter}: found a filter on features of {chosen.name},"
                         f" expected one on those of {model.spec.name}")
    clips = arrays["clips"]
    features = np.stack([features_of(model, on_white(clip)) for clip in
                         each(clips, "features", "clip", quiet=args.quiet)])
    if features.shape[1] != len(chosen.mean):
        raise InputError(f"--filter {args.filter}: found {len(chosen.mean)} features, expected"
                         f" {features.shape[1]}")
    good = np.flatnonzero(chosen.scores(features) > 0)
    print(f"{args.set}: {len(good)} of {len(clips)} clips are taken for good")
    if not len(good):
        raise InputError(f"--filter {args.filter}: takes no clip for good; nothing is written")
    names = [str(name) for name in np.load(args.set / "names.npy")[good]]
    record = {"kind": "kept", "source": args.set.name, "size": clips.shape[2],
              "frames": clips.shape[1], "count": len(good)}
    out = args.out.resolve()
    begun = begin_packed(out, record, names, clips.shape[1], clips.shape[2], args.overwrite)
    if begun is None:
        print(f"{out}: already holds these clips")
        return 0
    work, _ = begun
    for name in ("clips", "azimuths", "elevations"):
        np.save(work / f"{name}.npy", arrays[name][good])
    if (args.set / STARTS).exists():        # which `learn` needs
        np.save(work / STARTS, np.load(args.set / STARTS)[good])
    finish_packed(work, out)
    print(f"{out}: {len(good)} clips")
    return 0
