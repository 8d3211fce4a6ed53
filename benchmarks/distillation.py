#!/usr/bin/env python3
"""Measure what distillation does for surface that no view sees, on procedural objects.

  python benchmarks/distillation.py blur 2000001 2000002
  python benchmarks/distillation.py oracle 2000001 --out runs/oracle
  python benchmarks/distillation.py model 2000001 2000002 --out runs/model

blur: how blurred the embedded model's estimate in one step is: noise is added to the true orbit,
and the Gaussian blur (pixels) of the truth that is nearest to the estimate is printed by sigma.

oracle: views from azimuths within 60 degrees at elevation 0, so that none shows back and top. The
model is an oracle: the true orbit, blurred as `blur` measured. `other` is the oracle of another
object.

model: views that the embedded model makes of the true input view, those within 100 degrees of it.
`second` is a second, dynamic orbit of as many evaluations of the network, as further views; `true`
is the soft mask with the oracle in place of the model.

Printed are PSNR of pixels that show surface which no view sees, and of the others, against the true
object from 18 other cameras, the silhouettes' IoU, and the median gains over the arm `none`. All
arms of an object begin with the same field and surface and make the same number of steps. --set
changes settings of all arms; --arm "soft distill.guidance=1" is one with settings of its own.
What results.json in --out already has is kept.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from sgm.common.cli import Arguments, exit_code  # noqa: E402
from sgm.config.reconstruction import load_mesh_spec  # noqa: E402
from sgm.reconstruct.posed_views import PosedViews  # noqa: E402
from sgm.render.procedural import make_object, on_white, render_clip  # noqa: E402
from sgm.render.zbuffer import SOFT, render_geometry, render_views  # noqa: E402
from sgm.views import metrics  # noqa: E402
from sgm.views.cameras import (  # noqa: E402
    DISTANCE,
    FOV_DEG,
    Orbit,
    camera_to_world,
    focal_length,
)
from sgm.views.images import save_png  # noqa: E402
from sgm.views.media import contact_sheet  # noqa: E402

MASKS = {"none": ["distill.weight=0"], "naive": ["distill.floor=1"],
         "hard": ["distill.edges=[0.3,0.3]", "distill.floor=0"], "soft": []}
SIGMAS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)
# pixels of 64: the embedded model's blur at SIGMAS, by `blur`
BLUR = (0.75, 1.00, 1.00, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25, 1.25)
ROW = "{:6.2f} {:6.2f} {:6.3f}"
SEEN_SIDE, MEASURED = 192, 192      # pixels per side of the oracle's views, and of what is measured
JUDGES = [(azimuth, elevation) for elevation in (0, 25, 55) for azimuth in range(0, 360, 60)]


def posed(rgba, poses):
    """Return straight-alpha pictures (V, S, S, 4) uint8 as PosedViews."""
    rgba = rgba.astype(np.float32) / 255
    size, focal = rgba.shape[1], focal_length(rgba.shape[1])
    return PosedViews(np.ascontiguousarray(rgba[..., :3] * rgba[..., 3:]),
                      np.ascontiguousarray(rgba[..., 3]), poses, focal, focal, size / 2, size / 2)


class Oracle:
    """The true orbit of an object, blurred as the embedded model's estimate would be."""
    name, num_frames, size, is_posed, frees_graphs = "oracle", 21, (64, 64), True, False

    def __init__(self, mesh, guidance):
        self.mesh = mesh

    def __call__(self, clip, orbit, sigma, rng):
        blur = np.interp(np.log(sigma), np.log(SIGMAS), BLUR)
        frames = render_clip(self.mesh, orbit, 64, supersample=4).astype(np.float32) / 255
        return np.stack([blurred(frame, blur) for frame in frames]).transpose(0, 3, 1, 2) * 2 - 1


def blurred(picture, sigma):
    """Return a picture blurred by a Gaussian of `sigma` pixels."""
    return cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def embedded(seed):
    """Return the Engine of the embedded model, and ModelDenoisers of an object by their guidance.

    Their input is the true input view.
    """
    from sgm.diffusion.pipeline import load_model
    from sgm.reconstruct.distill.orbit_model import ModelDenoiser
    from sgm.views.preprocessing import to_network
    image = render_clip(seed, Orbit.static(10), 64)[-1]
    engine = load_model()
    return engine, partial(ModelDenoiser, engine, to_network(image))


def blur(args):
    """Print the blur of the model's estimate by sigma."""
    widths, rows = np.arange(0.25, 8, 0.25), {sigma: [] for sigma in SIGMAS}
    for seed in args.objects:
        engine, denoiser = embedded(seed)
        model = denoiser(1.0)
        for k, sigma in enumerate(SIGMAS):
            orbit, rng = Orbit.dynamic(seed), np.random.RandomState(k)
            true = render_clip(seed, orbit, 64, supersample=4).astype(np.float32) / 255
            made = model(true.transpose(0, 3, 1, 2) * 2 - 1, orbit, sigma, rng) / 2 + 0.5
            made = np.clip(made.transpose(0, 2, 3, 1), 0, 1)
            errors = [np.mean([np.square(blurred(t, w) - m).mean() for t, m in zip(true, made)])
                      for w in widths]
            plain = -10 * np.log10(np.square(true - made).mean())
            rows[sigma].append((widths[np.argmin(errors)], plain, -10 * np.log10(min(errors))))
        engine.release()
    print("   sigma   blur   PSNR to truth   to the blurred truth")
    for sigma, found in rows.items():
        print("{:8.3g} {:6.2f} {:15.2f} {:22.2f}".format(sigma, *np.mean(found, 0)))


class Judge:
    """What an object truly looks like, and where no view has seen it."""

    def __init__(self, mesh, views):
        from sgm.reconstruct.texture import visibility
        from sgm.views.cameras import rays
        self.poses = np.stack([camera_to_world(*angles, DISTANCE) for angles in JUDGES])
        self.true = render_views(mesh, self.poses, MEASURED, FOV_DEG, lighting=SOFT)
        vertices = np.asarray(mesh.vertices, np.float32)
        faces = np.ascontiguousarray(mesh.faces, np.int32)
        sights = [visibility.render_visibility(vertices, faces, views, k)
                  for k in range(len(views))]
        self.solid, self.hidden = [], []
        for pose in self.poses:
            depth, normals = render_geometry(mesh, pose, MEASURED, FOV_DEG)
            eyes, ways = rays(pose, MEASURED, MEASURED, focal_length(MEASURED))
            hit = depth > 0
            along = depth / (ways @ -pose[:3, 2])
            points = (eyes + along[..., None] * ways)[hit]
            weight, total = np.zeros(len(points)), np.zeros((len(points), 3))
            for k, sight in enumerate(sights):
                visibility.gather(points, normals[hit].astype(np.float64),
                                  visibility.camera(views, k),
                                  np.zeros((views.h, views.w, 3), np.float32),
                                  np.ones((views.h, views.w), np.float32), sight.nearest,
                                  sight.farthest, 1.0, total, weight)
            hidden = np.zeros_like(hit)
            hidden[hit] = weight == 0
            inner = cv2.erode(hit.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            self.solid.append(inner & ~hidden)
            self.hidden.append(inner & hidden)
        self.solid, self.hidden = np.stack(self.solid), np.stack(self.hidden)

    def __call__(self, mesh):
        """Return the PSNR of hidden and of seen pixels, the IoU, and the mesh's pictures."""
        from sgm.reconstruct.report import UNLIT
        rgba = render_views(mesh.drawable(), self.poses, MEASURED, FOV_DEG, lighting=UNLIT)
        error = np.square(on_white(rgba) / 255 - on_white(self.true) / 255).mean(-1)
        iou = np.mean([metrics.silhouette_iou(a[..., 3] > 127, b[..., 3] > 127)
                       for a, b in zip(rgba, self.true)])
        return (*(-10 * np.log10(error[where].mean()) for where in (self.hidden, self.solid)), iou,
                on_white(rgba))


def began(views, spec):
    """Return the hull, the signed distance and the state of the field that all arms begin with."""
    from sgm.reconstruct import stages
    from sgm.reconstruct.nerf.training import NerfTrainer
    from sgm.reconstruct.optimization import optimize
    hull = stages.carve(views, spec)
    trainer = NerfTrainer(views, hull.closed, spec.nerf, spec.seed)
    if not optimize(trainer):
        raise KeyboardInterrupt
    sdf, _ = stages.distance(trainer, hull, spec.depth)
    return hull, sdf, {p.name: p.asnumpy().copy() for p in trainer.field.trainable_params()}


def arm(views, spec, start, denoise):
    """Return the TexturedMesh of an arm; denoise(guidance): of its Distiller, or None."""
    from mindspore import Tensor

    from sgm.reconstruct import stages
    from sgm.reconstruct.distill.goals import Distiller
    from sgm.reconstruct.dmtet.refinement import Refiner
    from sgm.reconstruct.nerf.training import make_field
    from sgm.reconstruct.optimization import optimize
    hull, sdf, values = start
    field = make_field(spec.nerf, spec.seed)
    for p in field.trainable_params():
        p.set_data(Tensor(values[p.name]))
    distiller = None
    if denoise is not None and spec.distill.weight:
        distiller = Distiller(denoise(spec.distill.guidance), spec.distill)
        distiller.begin(views, spec.dmtet, spec.seed)
    refiner = Refiner(views, sdf, field, spec.dmtet, spec.seed, distiller)
    if not optimize(refiner):
        raise KeyboardInterrupt
    surface = refiner.surface()
    imagined = distiller and distiller.imagined(surface, field)
    vertices, faces = stages.flattened(surface, hull)
    mesh, _, _ = stages.texture(vertices, faces, views, spec, imagined=imagined)
    return mesh


def spec_of(args, name):
    """Return the settings of an arm: the mask that its first word names, and its further words."""
    mask, *words = name.split()
    return load_mesh_spec(args.config, [*MASKS.get(mask, ()), *args.set, *words])


def compare(args):
    """Make and measure the arms of all objects; print a table, write results.json and sheets."""
    from sgm import ops
    args.out.mkdir(parents=True, exist_ok=True)
    file, results = args.out / "results.json", {}
    if file.exists():
        results = json.loads(file.read_text())
    for seed in args.objects:
        mesh, spec = make_object(seed), spec_of(args, "soft")
        if args.command == "oracle":
            orbit = [camera_to_world(a, 0, DISTANCE) for a in [*range(-60, 61, 12)]]
            orbit = np.stack([*orbit, camera_to_world(0, 0, DISTANCE)])
            views = posed(render_views(mesh, orbit, SEEN_SIDE, FOV_DEG, lighting=SOFT), orbit)
            names, model = [*MASKS, "other"], partial(Oracle, mesh)
        else:
            names, (engine, model) = [*MASKS, "second", "true"], embedded(seed)
            sides = 1 if model(spec.distill.guidance).guidance[0] == 1 else 2
            views, more = generated(seed, engine, sides * spec.distill.count(spec.dmtet.steps))
        judge, start = Judge(mesh, views), began(views, spec)
        save_png(args.out / f"{seed}.true.png", sheet(on_white(judge.true)))
        for name in args.arm or names:
            chosen, begin, denoise, settings = views, start, model, spec_of(args, name)
            if name == "second":
                chosen, begin, denoise = more, began(more, spec), None
            elif name in ("true", "other"):
                denoise = partial(Oracle, make_object(seed + (name == "other")))
            *figures, pictures = judge(arm(chosen, settings, begin, denoise))
            results.setdefault(name, {})[str(seed)] = figures
            print(f"{seed:9d} {name:12s}", ROW.format(*figures), flush=True)
            save_png(args.out / f"{seed}.{name.replace(' ', '_')}.png", sheet(pictures))
            file.write_text(json.dumps(results, indent=1))
        if args.command == "model":
            engine.release()
        ops.release()
    summary(results)


def sheet(pictures):
    """Return every other picture in a row."""
    return contact_sheet(pictures[::2], len(pictures[::2]))


def summary(results):
    """Print medians of all arms, and of their differences to `none`, object by object."""
    print("\nmedians: hidden, seen, IoU; of the gains over `none`, and on how many objects hidden"
          " gains")
    for name, rows in results.items():
        line = ROW.format(*np.median(list(rows.values()), 0))
        paired = [np.subtract(row, results["none"][seed]) for seed, row in rows.items()
                  if seed in results.get("none", ())]
        if paired and name != "none":
            line += "  " + ROW.replace(":", ":+").format(*np.median(paired, 0))
            line += f"  {sum(gain[0] > 0 for gain in paired)} of {len(paired)}"
        print(f"{name:22s} {line}")


def generated(seed, engine, evaluations):
    """Return views of the embedded model within 100 degrees, and these with a second orbit.

    evaluations: steps of the second orbit.
    """
    from sgm.diffusion.pipeline import generate
    image = render_views(make_object(seed), Orbit.static(10).poses()[-1:], 64, FOV_DEG,
                         lighting=SOFT)[0]
    first = generate(engine, image, Orbit.static(10), seed=23)
    near = np.abs((first.orbit.azimuths_deg + 180) % 360 - 180) <= 100
    second = generate(engine, image, Orbit.dynamic(seed), seed=24, steps=evaluations)
    views = posed(first.rgba()[near], first.orbit.poses()[near])
    rest = posed(second.rgba()[:-1], second.orbit.poses()[:-1])
    both = replace(views, **{name: np.concatenate([getattr(rest, name), getattr(views, name)])
                             for name in ("rgb", "mask", "c2w")})
    return views, both


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("blur", "blur of the model's estimates"), ("oracle", "with an oracle"),
                       ("model", "with the embedded model")):
        add = commands.add_parser(name, help=text).add_argument
        add("objects", nargs="+", type=int, help="seeds of procedural objects")
        if name != "blur":
            add("--out", type=Path, required=True, help="folder of contact sheets and results.json")
            add("--config", default="fast", help="of views_to_mesh.py (default fast)")
            add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting")
            add("--arm", action="append", help="an arm, and its settings (default: all arms)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    if args.command == "blur":
        blur(args)
    else:
        compare(args)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("distillation.py", main))
