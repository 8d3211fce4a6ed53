#!/usr/bin/env python3
"""Measure a feed-forward network on objects that it was not trained on, beside plain baselines.

  python benchmarks/feedforward.py TEST --train TRAIN --ckpt runs/lrm_small/averaged.safetensors
  python benchmarks/feedforward.py TEST --train TRAIN --ckpt ... --shapes --out runs/table
  python benchmarks/feedforward.py TEST --ckpt ... --out runs/arms/one_stage --against runs/arms/all

TEST, TRAIN: packed sets of tools/render_orbits.py --orbit rings. The input is the last view of an
object, as it was rendered or, with --placed, as image_to_mesh.py places a photograph of it, of
whose size and place in the picture nothing is known; measured are the twelve cameras that nothing
is trained in (sgm.views.cameras.EVALUATION).

  model     the network
  other     the network, with the image of the next row of TEST that shows another object
  mean      the mean of all objects of TRAIN, as premultiplied pictures
  pixels    the object of TRAIN, at one of four turns, whose view is nearest to the input, by pixels
  features  the same, by the network's own features (class token, mean of the others)

Printed are the means over objects of PSNR on the object and of the silhouettes' IoU, by how much
the model is better than each other arm (mean of the paired differences, with the 95 % interval of a
bootstrap over objects) and in how many objects. Rows that show one object in several forms (-front
and -quarter of test sets, -00 and -01 of variations) count together as one. Without --train there
are only the first two arms.
--against: the same differences to the `model` of another run on the same objects, for arms that are
trained in another way. --shapes: also Chamfer distance and IoU of the mesh, procedural objects
only, whose shape is known. An object without a surface has an IoU of 0 and no distance: mean
distances are over the objects of which all that are compared have one; how many lack it is said.
--clip: also VFusion3D's metrics, the mean cosine of CLIP's embeddings of the views with that of the
input and, with --clip-texts, with those of texts that were embedded elsewhere.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import numpy as np  # noqa: E402

from sgm.common.cli import Arguments, exit_code, int_range  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.common.files import atomic  # noqa: E402
from sgm.common.progress import each  # noqa: E402
from sgm.feedforward.clip_similarity import load_clip, read_texts, similarity  # noqa: E402
from sgm.feedforward.meshes import with_opacity  # noqa: E402
from sgm.feedforward.rays import SV3D_INTRINSICS, UPRIGHT_SCALE, upright_cameras  # noqa: E402
from sgm.feedforward.reconstructor import load_lrm  # noqa: E402
from sgm.geometry import metrics as of_shapes  # noqa: E402
from sgm.render.families.named import procedural_object  # noqa: E402
from sgm.render.procedural import on_white  # noqa: E402
from sgm.render.sets.row_names import next_other, objects_of_rows  # noqa: E402
from sgm.render.visible import OuterSurface  # noqa: E402
from sgm.train.feedforward.feedforward_batches import input_view  # noqa: E402
from sgm.train.objects.masked_views import MaskedViews  # noqa: E402
from sgm.train.run.validation import captioned  # noqa: E402
from sgm.views.cameras import EVALUATION  # noqa: E402
from sgm.views.images import as_levels, save_png  # noqa: E402
from sgm.views.metrics import compare  # noqa: E402

ARMS = ("model", "other", "mean", "pixels", "features")
THUMB = 32              # pixels of a side of the pictures that are compared by pixels
BOOTSTRAP = 10_000
TABLE = "table.txt"     # what is printed, in --out


def straight(pictures):
    """Return premultiplied pictures (V, 4, S, S) in [0, 1] as (V, S, S, 4) uint8, straight alpha.
    """
    rgba = pictures.transpose(0, 2, 3, 1).copy()
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-3)
    return as_levels(rgba)


def turns_of(angles):
    """Return {view: [numbers]}: turned so that `view` is the input, camera k shows view numbers[k].

    angles (V, 2): azimuths and elevations of a ring set's cameras, in degrees. Views after whose
    turn the cameras are the same, as a set, are found.
    """
    azimuths, elevations = angles.T
    found = {}
    for view in np.flatnonzero(elevations == elevations[-1]):
        turned = (azimuths - azimuths[view]) % 360
        apart = np.abs((turned[None] - azimuths[:, None] + 180) % 360 - 180)
        match = (apart < 1e-3) & (elevations[None] == elevations[:, None])
        if match.any(1).all():
            found[int(view)] = match.argmax(1)
    return found


class Baselines:
    """What is known of the training objects: their mean, and their views as candidates."""

    def __init__(self, clips, model, size, placed, quiet):
        self.clips, self.size = clips, size
        self.turns = turns_of(clips.angles[0])
        self.candidates, pixels, features, total = [], [], [], 0.0
        for index in each(range(len(clips)), "training objects", "object", quiet=quiet):
            views = list(self.turns)
            small = clips.pictures(index, views, THUMB)
            pixels += list((small[:, :3] + 1 - small[:, 3:]).reshape(len(views), -1))
            images = np.stack([image_of(model, clips, index, view, placed) for view in views])
            features += list(feature_of(model, images))
            self.candidates += [(index, view) for view in views]
            total = total + clips.pictures(index, EVALUATION, size)
        self.mean = straight(total / len(clips))
        self.pixels, self.features = np.float32(pixels), np.float32(features)

    def nearest(self, known, wanted):
        """Return (object, view) of the candidate whose row of `known` is nearest to `wanted`."""
        return self.candidates[int(((known - wanted) ** 2).sum(1).argmin())]

    def views(self, candidate):
        """Return what the measured cameras see of a candidate, (V, S, S, 4) uint8."""
        index, view = candidate
        return straight(self.clips.pictures(index, self.turns[view][EVALUATION], self.size))


def feature_of(model, images):
    """Return the features (B, 2 C) of images: class token and mean of the others, of length 1."""
    tokens = model.encode(images)
    both = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
    return both / np.linalg.norm(both, axis=1, keepdims=True)


def image_of(model, clips, index, view, placed):
    """Return a view of an object as the network's input (3, S, S).

    placed: as image_to_mesh.py prepares a photograph, instead of as it was rendered.
    """
    if placed:
        clip = clips.packed[index]
        return model.prepare(clip.arrays["clips"][clip.row][view])[0]
    return input_view(clips, model.spec, np.random.default_rng(0), index, view)[0]


def planes_of(model, clips, index, placed):
    """Return the planes of the last view of an object, and that input; see `image_of`."""
    image = image_of(model, clips, index, clips.num_frames - 1, placed)
    camera = upright_cameras([clips.angles[index][-1][1]])
    return model.planes(model.encode(image[None]), camera), image


def rendered(model, clips, index, planes, size):
    """Return what the measured cameras see of planes, (V, S, S, 4) uint8."""
    poses = clips.poses(index, EVALUATION).copy()
    poses[:, :3, 3] *= UPRIGHT_SCALE
    images, opacity, _ = model.render(planes, poses, SV3D_INTRINSICS, (size, size))
    return with_opacity(images, opacity)


def shape_error(model, planes, name, resolution):
    """Return {chamfer, iou} of the mesh of planes against a procedural object, by its name."""
    try:
        vertices, faces = model.surface(planes, resolution)
    except InputError:                          # no surface at all
        return {"chamfer": None, "shape_iou": 0.0}
    truth = procedural_object(name).load()
    outer = [OuterSurface(mesh_of(vertices / UPRIGHT_SCALE, faces)), OuterSurface(truth)]
    found = of_shapes.compare((vertices / UPRIGHT_SCALE, faces), (truth.vertices, truth.faces),
                              outer=outer)
    return {"chamfer": found["chamfer_l1"], "shape_iou": found["iou"]}


def mesh_of(vertices, faces):
    """Return a Mesh without colors."""
    from sgm.geometry.mesh import Mesh
    return Mesh(vertices, faces)


def measure(args, model, test, baselines, names, size, clip=None, texts=None):
    """Yield (name, {arm: {measure: value}}, pictures of a sheet) of every test object.

    clip: a `ClipImages`; texts (N, D): embeddings of length 1 for it, of each object.
    """
    objects = objects_of_rows(names)
    for index in each(range(len(test)), "test objects", "object", quiet=args.quiet):
        planes, image = planes_of(model, test, index, args.placed)
        other, _ = planes_of(model, test, next_other(objects, index), args.placed)
        truth = straight(test.pictures(index, EVALUATION, size))
        small = test.pictures(index, [test.num_frames - 1], THUMB)[0]
        made = {"model": rendered(model, test, index, planes, size),
                "other": rendered(model, test, index, other, size)}
        if baselines is not None:
            by_pixels = baselines.nearest(baselines.pixels,
                                          (small[:3] + 1 - small[3:]).reshape(1, -1))
            by_features = baselines.nearest(baselines.features, feature_of(model, image[None]))
            made |= {"mean": baselines.mean, "pixels": baselines.views(by_pixels),
                     "features": baselines.views(by_features)}
        found = {}
        for arm, views in made.items():
            each_view = [compare(a, b) for a, b in zip(views, truth)]
            found[arm] = {key: float(np.mean([view[key] for view in each_view]))
                          for key in ("psnr_fg", "iou")}
        if args.shapes:
            found["model"] |= shape_error(model, planes, names[index], args.resolution)
        shown = as_levels(image.transpose(1, 2, 0))
        if clip is not None:
            wanted = {"clip_image": clip.embed(shown[None])[0]}
            if texts is not None:
                wanted["clip_text"] = texts[index]
            for arm, views in made.items():
                embedded = clip.embed(on_white(views))
                found[arm] |= {key: similarity(embedded, one) for key, one in wanted.items()}
        yield names[index], found, ([shown, *on_white(truth)],
                                    [np.full_like(shown, 255), *on_white(made["model"])])


def interval(differences):
    """Return the 95 % interval of the mean of paired differences, by a bootstrap over objects."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(differences), size=(BOOTSTRAP, len(differences)))
    return np.quantile(np.asarray(differences)[drawn].mean(1), (0.025, 0.975))


def table(results, against=None):
    """Return the lines of the table of {name: {arm: {measure: value}}}.

    against: the same of another run on the same objects, whose `model` is one more arm.
    """
    if against is not None:
        results = {name: {**found, "against": against[name]["model"]}
                   for name, found in results.items()}
    arms = [arm for arm in (*ARMS, "against") if all(arm in found for found in results.values())]

    objects = objects_of_rows(results)

    def column(arm, key):
        """Return the mean over each object's rows."""
        rows = np.array([found[arm].get(key) for found in results.values()], float)
        return np.bincount(objects, rows) / np.bincount(objects)

    lines = [f"{objects.max() + 1} objects: mean PSNR on the object, IoU of silhouettes; model"
             " minus the arm: mean difference of PSNR, 95 % interval, share of objects better"]
    shaped = [arm for arm in arms if not np.isnan(column(arm, "shape_iou")).any()]
    common = np.all([np.isfinite(column(arm, "chamfer")) for arm in shaped], 0)
    for arm in arms:
        psnr, iou = column(arm, "psnr_fg"), column(arm, "iou")
        line = f"{arm:9} {psnr.mean():6.2f} dB {iou.mean():6.3f}"
        if arm != "model":
            better = column("model", "psnr_fg") - psnr
            low, high = interval(better)
            share = (better > 0).mean()
            line += f"   {better.mean():+6.2f} dB [{low:+.2f}, {high:+.2f}] {share:5.0%}"
        for key, name in (("clip_image", "CLIP to the input"), ("clip_text", "to the text")):
            if not np.isnan(column(arm, key)).any():
                line += f"   {name} {column(arm, key).mean():.3f}"
        if arm in shaped:
            distance = column(arm, "chamfer")
            line += f"   IoU of shapes {column(arm, 'shape_iou').mean():.3f}"
            if common.any():
                line += f" Chamfer {distance[common].mean():.4f} of {common.sum()} objects"
            line += f", {np.isnan(distance).sum()} without a surface"
        lines.append(line)
    return lines


def results_of(path):
    """Return the results of another run, a JSON file. Raises InputError."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        for found in results.values():
            for key in ("psnr_fg", "iou"):
                float(found["model"][key])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"--against: {path}: is missing or damaged, expected the results of this"
                         " program; measure that run again") from None
    return results


def parse(argv):
    """Return the flags."""
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("test", nargs="+", help="packed ring sets of objects that were not trained on")
    add("--train", nargs="+", help="packed ring sets that were trained on")
    add("--against", type=Path, help="folder of another run, to be compared with")
    add("--config", default="lrm_small", help="the network (default lrm_small)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of it")
    add("--ckpt", required=True, help="its weights")
    add("--placed", action="store_true",
        help="place inputs as image_to_mesh.py does, instead of as they were rendered")
    add("--clip", metavar="FILE", help="weights with an image tower of OpenCLIP: its own, or those"
        " of an orbit model")
    add("--clip-texts", metavar="FILE.npy", help="embeddings of texts by that CLIP, one for each"
        " object of TEST in turn: (N, D) numbers")
    add("--shapes", action="store_true", help="also measure meshes; procedural objects only")
    add("--resolution", type=int_range(16, 512), default=128,
        help="points along a side of the grid of the meshes (default 128)")
    add("--size", type=int_range(8, 4096), metavar="N",
        help="pixels of a side of the views that are compared (default: all that there are)")
    add("--out", default="outputs/feedforward", help="folder (default outputs/feedforward)")
    return parser.parse_args(argv)


def main(argv=None):
    """Measure; return the exit code."""
    args = parse(argv)
    model = load_lrm(args.config, args.ckpt, args.set)
    test, train = MaskedViews(args.test, None, "test"), None
    if args.train:
        train = MaskedViews(args.train, None, "--train")
    for clips in filter(None, (test, train)):
        if not clips.shared or len(turns_of(clips.angles[0])) < 2:
            raise InputError(f"{clips.packed[0].folder}: found cameras that are not those of rings,"
                             " expected sets of tools/render_orbits.py --orbit rings")
    names = [str(np.load(clip.folder / "names.npy")[clip.row]) for clip in test.packed.items]
    if objects_of_rows(names).max() == 0:
        raise InputError(f"{args.test[0]}: found one object, expected several: the image of another"
                         " is one of the arms")
    if args.shapes and None in (objects := [procedural_object(name) for name in names]):
        raise InputError(f"--shapes: found {names[objects.index(None)]}, expected procedural"
                         " objects, whose names are seeds")
    if args.clip_texts and not args.clip:
        raise InputError("--clip-texts: found no --clip, expected the file whose texts they are")
    clip = load_clip(args.clip) if args.clip else None
    texts = read_texts(args.clip_texts, len(names), clip.width) if args.clip_texts else None
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    size = args.size or test.size
    for clips in filter(None, (test, train)):
        if clips.size % size:
            raise InputError(f"--size: found {size}, expected a divisor of {clips.size}, the pixels"
                             " of a side of the views")
    against = args.against and results_of(args.against / "results.json")
    if against and set(against) != set(names):
        raise InputError(f"--against {args.against}: found the results of other objects, expected"
                         " those of the same sets")
    baselines = Baselines(train, model, size, args.placed, args.quiet) if train else None
    results, sheets = {}, []
    for name, found, pictures in measure(args, model, test, baselines, names, size, clip,
                                         texts):
        results[name] = found
        sheets.append((found["model"]["psnr_fg"], captioned(
            f"{name}: input, true; reconstructed; {found['model']['psnr_fg']:.1f} dB, silhouettes"
            f" {found['model']['iou']:.2f}", *pictures)))
        with atomic(out / "results.json") as temporary:
            temporary.write_text(json.dumps(results, indent=1))
    sheets.sort(key=lambda pair: -pair[0])
    for file, chosen in (("best.png", sheets[:4]), ("worst.png", sheets[-4:])):
        save_png(out / file, np.concatenate([sheet for _, sheet in chosen]))
    said = "\n".join(table(results, against))
    with atomic(out / TABLE) as temporary:
        temporary.write_text(f"{said}\n")
    print(said)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("feedforward.py", main))
