#!/usr/bin/env python3
"""Measure how well objects are cut out, on composites whose alpha is known.

  python benchmarks/matting.py models/*.glb cutout.png --photos photos/*.jpg
  python benchmarks/matting.py 1000003 duck.ply --up z --kinds wall shadow --sheet sheet.png

Objects are mesh files, seeds of procedural objects, and pictures with transparency. Each is put on
a ground of every kind, --count times, as a camera would see it: blur, noise, JPEG, a longer side of
300 to 2000 pixels.

  plain    one color, or a gradient
  wall     plaster or paper in light that falls off; half of them with a floor, and the object's
           contact shadow on it
  shadow   a soft contact shadow and a cast one, on a plain ground or a gradient
  white    an object that is made white or light gray, on white or light gray paper; half of them
           with a shadow
  border   as shadow, but one or two sides of the picture cut the object off
  clutter  on a photograph (--photos), else on random shapes

Printed for each kind: the mean, the median and the 10th percentile of the alpha IoU (the sum over
pixels of the smaller alpha, divided by the sum of the larger one; 0 where no object was found), the
share that is at least .95; of those below .85, how many came without a warning; of those above .95,
how many came with one; and seconds for each picture.

The same seed and the same objects give the same composites. Exit code: 0 done, 2 wrong input, 130
interrupted.
"""
from __future__ import annotations

import argparse
import io
import sys
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import sgm.common.startup  # noqa: E402, F401 - first: says which packages are missing

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from sgm.common.cli import Arguments, exit_code, int_range  # noqa: E402
from sgm.common.errors import InputError  # noqa: E402
from sgm.config.reconstruction import MATTES  # noqa: E402
from sgm.geometry.mesh import linear_from_srgb, srgb_from_linear  # noqa: E402
from sgm.geometry.mesh_reader import SUFFIXES, load_mesh  # noqa: E402
from sgm.render.framing import normalized, viewing_distance  # noqa: E402
from sgm.render.procedural import make_object  # noqa: E402
from sgm.render.zbuffer import Lighting, render_views  # noqa: E402
from sgm.views.cameras import FOV_DEG, Orbit  # noqa: E402
from sgm.views.images import ImageError, load_image  # noqa: E402
from sgm.views.matting import matte  # noqa: E402

KINDS = ("plain", "wall", "shadow", "white", "border", "clutter")
SIDES = 300, 2000       # pixels: the longer side of a composite
GOOD, BAD = 0.95, 0.85  # alpha IoU
TILE = 256              # pixels: a picture of the sheet


# --- objects --------------------------------------------------------------------------------------

def object_of(name, up, size, rng):
    """Return an object that fills its picture: linear RGB and alpha, (h, w, 4) float32 in [0, 1].

    name: a mesh file, a picture with transparency, or the seed of a procedural object; meshes are
    seen from a random camera in random light. up: the meshes' up axis. size: pixels of the longer
    side.
    """
    path = Path(name)
    if path.suffix.lower() in SUFFIXES or name.isdigit():
        mesh = make_object(int(name)) if name.isdigit() else normalized(load_mesh(path, up))
        orbit = Orbit.from_lists([rng.uniform(0, 360)], [rng.uniform(3, 35)])
        light = Lighting(ambient=rng.uniform(0.3, 0.5), key=rng.uniform(0.3, 0.6),
                         key_direction=(*rng.uniform(-1, 1, 2), rng.uniform(0.3, 1)),
                         fill=rng.uniform(0, 0.2), sky=0.1,
                         gloss=rng.choice((0, 0.3)))
        rgba = render_views(mesh, orbit.poses(viewing_distance(mesh, orbit)), size, FOV_DEG,
                            lighting=light)[0]
    else:
        rgba = np.asarray(load_image(path))
        if rgba[..., 3].min() > 127:
            raise InputError(f"{path}: has no transparent pixel; give pictures of objects that are"
                             " cut out, and photographs as --photos")
    y, x = np.nonzero(rgba[..., 3] > 127)
    if not len(y):
        raise InputError(f"{path}: shows nothing")
    rgba = rgba[y.min():y.max() + 1, x.min():x.max() + 1].astype(np.float32) / 255
    rgba[..., :3] = linear_from_srgb(rgba[..., :3]) * rgba[..., 3:]
    scale = size / max(rgba.shape[:2])
    rgba = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1
                      else cv2.INTER_LINEAR)
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-3)
    return np.clip(rgba, 0, 1)


def whitened(rgba, rng):
    """Return an object made white or light gray, its shading and texture kept in part."""
    light = rgba[..., :3].mean(axis=-1, keepdims=True)
    solid = rgba[..., 3] > 0.5
    low, high = np.percentile(light[solid], (5, 95))
    shade = np.clip((light - low) / max(high - low, 0.05), 0, 1)
    darkest, brightest = rng.uniform(0.35, 0.6), rng.uniform(0.75, 0.97)    # linear
    tint = 1 - rng.uniform(0, 0.05, 3)
    return np.concatenate([(darkest + (brightest - darkest) * shade) * tint, rgba[..., 3:]], -1)


# --- grounds --------------------------------------------------------------------------------------

def smooth_noise(shape, size, rng):
    """Return noise (H, W) float32 with details of `size` pixels, standard deviation 1."""
    h, w = (max(2, int(np.ceil(n / size)) + 1) for n in shape)
    noise = cv2.resize(rng.normal(0, 1, (h, w)).astype(np.float32), shape[::-1],
                       interpolation=cv2.INTER_CUBIC)
    return noise / max(noise.std(), 1e-6)


def color(rng, light=(0.08, 0.9), saturation=0.5):
    """Return a random linear color (3,): gray or tinted."""
    tint = 1 - rng.uniform(0, saturation if rng.rand() < 0.6 else 0.04, 3)
    return rng.uniform(*light) * tint / tint.max()


def light_falloff(shape, rng, strength):
    """Return factors (H, W): a linear gradient and a lamp's falloff, 1 at the brightest."""
    y, x = np.mgrid[:shape[0], :shape[1]] / max(shape)
    angle = rng.uniform(0, 2 * np.pi)
    cx, cy = rng.uniform(-0.2, 1.2, 2)
    light = (1 + strength * rng.uniform(0, 1) * (x * np.cos(angle) + y * np.sin(angle))) / (
        1 + strength * rng.uniform(0, 1.5) * ((x - cx) ** 2 + (y - cy) ** 2))
    return (light / light.max())[..., None]


def texture(shape, rng, strength):
    """Return factors (H, W): plaster (details of several sizes) or paper (fine grain)."""
    largest = max(shape) / rng.uniform(8, 30)
    if rng.rand() < 0.5:
        noise = sum(smooth_noise(shape, largest / 2 ** k, rng) * 0.7 ** k for k in range(4)) / 1.7
    else:
        noise = smooth_noise(shape, max(1.0, max(shape) / 400), rng)
    return (1 + strength * noise)[..., None]


def wall(shape, foot, rng):
    """Return a wall (H, W, 3), linear, and whether it has a floor.

    foot: (y, x) where the object stands: the floor begins above it.
    """
    ground = np.broadcast_to(color(rng), (*shape, 3)) * texture(shape, rng, rng.uniform(0, 0.04))
    has_floor = rng.rand() < 0.5
    if has_floor:
        height, blur = shape[0] * rng.uniform(0.03, 0.35), shape[0] * rng.uniform(0.001, 0.03)
        slope = rng.uniform(-0.08, 0.08)
        y, x = np.mgrid[:shape[0], :shape[1]]
        below = 1 / (1 + np.exp(-np.clip((y - foot[0] + height + slope * (x - foot[1])) / blur,
                                         -30, 30)))[..., None]
        floor = color(rng) * texture(shape, rng, rng.uniform(0, 0.05))
        ground = ground * (1 - below) + floor * below
    return ground * light_falloff(shape, rng, 0.8), has_floor


def shadows(alpha, foot, rng, contact_only=False):
    """Return factors (H, W, 3) that an object's contact and cast shadow darken the ground by.

    alpha (H, W) of the object; foot: (y, x) of its lowest point.
    """
    h, w = alpha.shape
    rows = np.nonzero(alpha.max(axis=1) > 0.5)[0]
    tall = max(rows[-1] - rows[0], 8)
    # contact: what is low, flattened
    low = alpha * (np.arange(h)[:, None] > foot[0] - 0.15 * tall)
    flat = rng.uniform(0.15, 0.3)
    squeeze = np.float32([[1, 0, 0], [0, flat, foot[0] * (1 - flat)]])
    contact = cv2.GaussianBlur(cv2.warpAffine(low, squeeze, (w, h)), (0, 0), 0.03 * tall)
    darkness = rng.uniform(0.3, 0.7) * np.clip(1.5 * contact, 0, 1)
    # cast: the outline, sheared to the ground behind or before the object, softer away from it
    if not contact_only and rng.rand() < 0.8:
        flat, shear = rng.uniform(0.15, 0.6) * rng.choice((-1, 1), p=(0.35, 0.65)), \
            rng.uniform(0.2, 1.2) * rng.choice((-1, 1))
        cast = np.float32([[1, -shear * abs(flat), shear * abs(flat) * foot[0]],
                           [0, flat, foot[0] * (1 - flat)]])
        lying = cv2.warpAffine(alpha, cast, (w, h))
        near = cv2.GaussianBlur(lying, (0, 0), tall * rng.uniform(0.01, 0.03))
        far = cv2.GaussianBlur(lying, (0, 0), tall * rng.uniform(0.05, 0.12))
        away = np.clip(np.hypot(*(np.mgrid[:h, :w] - np.reshape(foot, (2, 1, 1)))) / tall, 0, 1)
        darkness = np.maximum(darkness, rng.uniform(0.2, 0.65) * (near + (far - near) * away))
    tint = 1 - rng.uniform(0, 0.08, 3)          # skylight makes shadows bluish
    return 1 - darkness[..., None] * tint


def clutter(shape, photos, rng):
    """Return a cluttered scene (H, W, 3), linear: part of a photograph, or random shapes."""
    if photos:
        photo = np.asarray(load_image(photos[rng.randint(len(photos))]).convert("RGB"))
        scale = max(n / m for n, m in zip(shape, photo.shape)) * rng.uniform(1, 1.4)
        photo = cv2.resize(photo, None, fx=scale * 1.01, fy=scale * 1.01,
                           interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        top, left = (rng.randint(m - n + 1) for n, m in zip(shape, photo.shape))
        photo = photo[top:top + shape[0], left:left + shape[1], ::rng.choice((-1, 1))]
        return linear_from_srgb(photo.astype(np.float32) / 255)
    scene = np.empty((*shape, 3), np.float32)
    scene[:] = color(rng)
    for _ in range(150):
        center = tuple(int(c) for c in rng.uniform(0, 1, 2) * shape[::-1])
        axes = tuple(int(a) for a in max(shape) * 0.25 * rng.uniform(0.1, 1, 2) ** 2 + 2)
        cv2.ellipse(scene, center, axes, rng.uniform(0, 180), 0, 360, tuple(color(rng)), -1)
    return scene * texture(shape, rng, 0.05)


# --- composites -----------------------------------------------------------------------------------

def composite(kind, name, up, photos, rng):
    """Return a picture (H, W, 3) uint8 and its object's alpha (H, W) float32."""
    side = int(np.exp(rng.uniform(*np.log(SIDES))))
    aspect = rng.choice((1, 0.75, 0.75, 2 / 3))
    shape = (side, int(side * aspect)) if rng.rand() < 0.5 else (int(side * aspect), side)
    rgba = object_of(name, up, max(48, int(min(shape) * rng.uniform(0.45, 0.85))), rng)
    if kind == "white":
        rgba = whitened(rgba, rng)
    if rng.rand() < 0.5:
        rgba = rgba[:, ::-1]
    h, w = rgba.shape[:2]
    top = int((shape[0] - h) * rng.uniform(0.3, 0.8))
    left = int((shape[1] - w) * rng.uniform(0.2, 0.8))
    if kind == "border":        # 10 to 35 % of the object are cut off by one side, or by two
        sides = rng.permutation(4)[:rng.choice((1, 2), p=(0.7, 0.3))]
        out = rng.uniform(0.1, 0.35, 4)
        for s in sides:
            top = (-int(out[0] * h), shape[0] - h + int(out[1] * h), top, top)[s]
            left = (left, left, -int(out[2] * w), shape[1] - w + int(out[3] * w))[s]
    move = np.float32([[1, 0, left], [0, 1, top]])
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    placed = cv2.warpAffine(rgba, move, shape[::-1])
    alpha = placed[..., 3]
    low = top + h - 1
    across = np.nonzero(rgba[-max(1, h // 50):, :, 3].max(axis=0) > 0.5)[0]
    foot = low, left + (float(across.mean()) if len(across) else w / 2)
    # the ground
    shaded = kind in ("shadow", "border") or kind == "white" and rng.rand() < 0.5
    if kind == "wall":
        ground, has_floor = wall(shape, foot, rng)
        if has_floor:
            ground = ground * shadows(alpha, foot, rng, contact_only=True)
    elif kind == "clutter":
        ground = clutter(shape, photos, rng)
    else:
        light = (0.75, 0.98) if kind == "white" else (0.15, 0.98)
        ground = np.broadcast_to(color(rng, light, 0.03 if kind == "white" else 0.4), (*shape, 3))
        if kind == "white" or rng.rand() < 0.6:
            ground = ground * light_falloff(shape, rng, 0.25 if kind == "white" else 0.6)
        if shaded:
            ground = ground * shadows(alpha, foot, rng)
    # the camera
    picture = (placed[..., :3] + ground * (1 - alpha[..., None])).astype(np.float32)
    blur = rng.uniform(0.3, 0.9) * max(1, side / 1000)
    picture = srgb_from_linear(np.clip(cv2.GaussianBlur(picture, (0, 0), blur), 0, 1)) * 255
    grain = rng.uniform(0.3, 3)
    picture = picture + rng.normal(0, grain, picture.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=int(rng.uniform(70, 97)))
    return np.asarray(Image.open(file).convert("RGB")), alpha


def alpha_iou(found, truth):
    """Return sum min / sum max of two alphas (H, W) in [0, 1], at the smaller one's size."""
    if found.shape != truth.shape:
        truth = cv2.resize(truth, found.shape[::-1], interpolation=cv2.INTER_AREA)
    return float(np.minimum(found, truth).sum() / max(np.maximum(found, truth).sum(), 1e-9))


def measure(picture, truth, method):
    """Return the alpha IoU, the warning or None, and what was cut out, PIL RGBA or None."""
    try:
        cut = matte(Image.fromarray(picture), method)
    except ImageError as error:
        return 0.0, str(error), None
    return alpha_iou(np.asarray(cut.image)[..., 3] / 255, truth), cut.doubt, cut.image


def tile(picture, cut, iou, doubt):
    """Return a picture and what was cut out of it, side by side, (TILE, 2 TILE, 3) uint8."""
    both = Image.new("RGB", (2 * TILE, TILE), "magenta")
    for k, image in enumerate((Image.fromarray(picture).convert("RGBA"), cut)):
        if image is not None:
            image = image.copy()
            image.thumbnail((TILE, TILE))
            both.paste(image, (k * TILE, 0), image)
    drawn = np.array(both)
    cv2.putText(drawn, f"{iou:.3f}{' warns' if doubt else ''}", (4, TILE - 6),
                cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 0, 0) if iou < GOOD else (0, 90, 0), 2)
    return drawn


def parse(argv):
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("objects", nargs="+", help="mesh files, seeds of procedural objects, pictures with alpha")
    add("--photos", nargs="*", default=[], type=Path, help="grounds of the kind clutter")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, help="default: all")
    add("--count", type=int_range(1, 1000), default=1, help="composites of an object and kind")
    add("--seed", type=int_range(0, 2**31), default=0)
    add("--up", choices=("auto", "y", "z"), default="auto", help="the mesh files' up axis")
    add("--matte", choices=MATTES, default="auto", help="default auto")
    add("--sheet", type=Path, help="picture to write: the composites and what was cut out")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    print(f"{'kind':8s} {'n':>4s} {'mean':>6s} {'median':>6s} {'q10':>6s} {'>=.95':>6s}"
          f" {'<.85':>5s} {'unwarned':>8s} {'>.95':>5s} {'warned':>6s} {'s':>5s}")
    tiles, everything = [], []
    for kind in args.kinds:
        found = []
        for name in args.objects:
            for k in range(args.count):
                key = f"{args.seed}/{kind}/{Path(name).parent.name}/{Path(name).name}/{k}"
                rng = np.random.RandomState(zlib.crc32(key.encode()))
                picture, truth = composite(kind, name, args.up, args.photos, rng)
                started = time.perf_counter()
                iou, doubt, cut = measure(picture, truth, args.matte)
                found.append((iou, bool(doubt), time.perf_counter() - started))
                if args.sheet:
                    tiles.append(tile(picture, cut, iou, doubt))
        everything += found
        print(row(kind, found), flush=True)
    print(row("all", everything))
    if args.sheet:
        columns = 6
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
        rows = [np.concatenate(tiles[k:k + columns], 1) for k in range(0, len(tiles), columns)]
        Image.fromarray(np.concatenate(rows)).save(args.sheet)
    return 0


def row(kind, found):
    """Return a line of the table. found: (N, 3) of alpha IoU, whether warned, seconds."""
    iou, warned, seconds = np.array(found, float).T
    bad, good = iou < BAD, iou > GOOD
    return (f"{kind:8s} {len(iou):4d} {iou.mean():6.3f} {np.median(iou):6.3f}"
            f" {np.percentile(iou, 10):6.3f} {(iou >= GOOD).mean():6.0%} {bad.sum():5d}"
            f" {(bad & (warned == 0)).sum():8d} {good.sum():5d} {(good & (warned > 0)).sum():6d}"
            f" {seconds.mean():5.2f}")


if __name__ == "__main__":
    sys.exit(exit_code("matting.py", main))
