"""Procedural objects to train and test a small SV3D, deterministic across numpy versions.

They are the first family, half_turn; `sgm.render.families` has the second, and both by name. Every
object is unchanged by half a turn about the vertical axis, so what the input view hides follows
from what it shows. It is long and narrow, its long sides and its ends have different colors, and it
is seen three-quarter in the input view, so its silhouette and its colors change much with the
azimuth: the mean of an orbit is a poor guess, and so is the right orbit at wrong azimuths.
"""
from __future__ import annotations

import numpy as np

from sgm.geometry.mesh import Mesh, merge
from sgm.render.primitives import Paint, box, loft, rotated, section, shifted, with_half_turn
from sgm.render.zbuffer import SOFT, render_views
from sgm.views.cameras import DISTANCE, FOV_DEG, Orbit

RADIUS = 0.5

# sRGB-coded, saturated, none near the white of the background. Grouped by lightness: neighbors of
# one object come from different groups, so that sides and ends differ in lightness as well as in
# hue.
DARK = np.array([(0.13, 0.20, 0.55), (0.45, 0.10, 0.38), (0.10, 0.34, 0.22), (0.42, 0.20, 0.12),
                 (0.17, 0.17, 0.22)])
MIDDLE = np.array([(0.86, 0.16, 0.16), (0.12, 0.45, 0.85), (0.18, 0.58, 0.26), (0.58, 0.24, 0.72),
                   (0.90, 0.25, 0.52)])
LIGHT = np.array([(0.98, 0.80, 0.16), (0.98, 0.58, 0.16), (0.36, 0.80, 0.88), (0.62, 0.84, 0.24),
                  (0.98, 0.62, 0.68)])


def make_object(seed: int) -> Mesh:
    """Return one procedural object (50-2000 triangles).

    Its farthest point is 0.5 from the origin, z is up, and half a turn leaves it unchanged. Its
    long axis stands 20-70 degrees, either way, from the line of sight of the input camera (azimuth
    0).
    """
    rng, colors, kind = _begun(seed)
    mesh = merge(_KINDS[kind](rng, colors))
    yaw = rng.uniform(20, 70) * rng.choice((-1, 1))
    mesh = rotated(_fitted(mesh), yaw)
    return mesh


def kind_of(seed: int) -> str:
    """Return the kind of the object of a seed: "vehicle", "house", "tower", ..."""
    return KINDS[_begun(seed)[2]]


def _begun(seed):
    """Return the stream of a seed's object, its colors, and the place of its kind in _KINDS."""
    # numpy guarantees this stream; the newer Generator's may change
    rng = np.random.RandomState(seed)
    colors = palette(rng)
    return rng, colors, rng.choice(len(_KINDS), p=_SHARES)


def render_clip(source: int | Mesh, orbit: Orbit, size: int, *, supersample: int = 2) -> np.ndarray:
    """Return views of a procedural object (by seed) or of a mesh on white.

    They are (T, size, size, 3) uint8 sRGB.
    """
    mesh = source if isinstance(source, Mesh) else make_object(source)
    views = render_views(mesh, orbit.poses(DISTANCE), size, FOV_DEG, supersample=supersample,
                         lighting=SOFT)
    return on_white(views)


def on_white(rgba: np.ndarray, background=(255, 255, 255)) -> np.ndarray:
    """Return (..., 4) uint8 straight alpha composited on white, or another color, (..., 3) uint8.

    Values are composited as stored (sRGB-coded).
    """
    rgb, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    behind = np.array(background, np.uint32)
    return ((rgb * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)


def palette(rng) -> dict[str, np.ndarray]:
    """Return the colors of side, end, top and accent.

    Side, end and top come from different lightness groups, side and end far apart; the accent comes
    from the rest.
    """
    groups = [DARK, MIDDLE, LIGHT]
    while True:
        side, end, top = (groups[k][rng.randint(len(groups[k]))] for k in rng.permutation(3))
        if np.linalg.norm(side - end) > 0.6:
            break
    rest = [
        c for c in np.concatenate(groups)
        if min(np.linalg.norm(c - o) for o in (side, end, top)) > 0.45
    ]
    accent = rest[rng.randint(len(rest))]
    return {name: np.clip(c + rng.uniform(-0.04, 0.04, 3), 0.04, 0.98)
            for name, c in zip(("side", "end", "top", "accent"), (side, end, top, accent))}


def _fitted(mesh: Mesh) -> Mesh:
    """Return the mesh moved along z to the least bounding sphere, then scaled to RADIUS.

    x and y are centered by the symmetry.
    """
    p = mesh.vertices.astype(np.float64)
    low, high = p[:, 2].min(), p[:, 2].max()
    for _ in range(60):     # the farthest distance is a convex function of the center
        a, b = low + (high - low) / 3, high - (high - low) / 3
        far = [((p - (0, 0, z)) ** 2).sum(1).max() for z in (a, b)]
        low, high = (low, b) if far[0] < far[1] else (a, high)
    center = (low + high) / 2
    scale = RADIUS / np.sqrt(((p - (0, 0, center)) ** 2).sum(1).max())
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[2, 3] = -center * scale
    return mesh.transformed(matrix)


_PATTERNS = {
    "plain": 0.3, "bands": 0.14, "two_tone": 0.14, "stripes": 0.12, "checker": 0.06, "halves": 0.14,
    "panel": 0.1
}


def some_paint(rng, colors, patterns=tuple(_PATTERNS)) -> Paint:
    """Return a paint of these colors (see `palette`), its pattern drawn from `patterns`."""
    share = np.array([_PATTERNS[p] for p in patterns])
    return Paint(colors, str(rng.choice(patterns, p=share / share.sum())), int(rng.randint(3, 5)))


def _swapped(colors) -> dict[str, np.ndarray]:
    """Return the palette of an upper storey: sides and ends change places with top and accent."""
    return {
        "side": colors["top"], "end": colors["accent"], "top": colors["side"],
        "accent": colors["end"]
    }


def _long_body(rng, paint, height, shape=None, width=None):
    """Return a body of length 2 (x from -1 to 1) on z = 0, and its half width."""
    width = rng.uniform(0.36, 0.5) if width is None else width
    shape = shape or rng.choice(("box", "ellipse", "rounded", "hull", "frustum", "capsule"))
    if shape == "box":
        return box(1, width, height, paint), width
    if shape == "ellipse":
        return loft(section("ellipse", paint), [(0, 1, width), (height, 1, width)], paint), width
    if shape == "rounded":
        t = np.linspace(-np.pi / 2, np.pi / 2, 9)
        rings = [(height * (0.5 + 0.5 * np.sign(np.sin(a)) * abs(np.sin(a))**0.7),
                  0.55 + 0.45 * abs(np.cos(a))**0.6, width * (0.55 + 0.45 * abs(np.cos(a))**0.6))
                 for a in t]
        return loft(section("squircle", paint), rings, paint), width
    if shape == "hull":        # a boat: the keel is shorter and narrower than the deck
        return box(1, width, height, paint, bottom=(rng.uniform(0.5, 0.75), 0.6)), width
    if shape == "frustum":
        taper = rng.uniform(0.5, 0.75)
        return box(1, width, height, paint, top=(taper, taper)), width
    t = np.linspace(-np.pi / 2, np.pi / 2, 11)
    rings = [(height * (0.5 + 0.5 * np.sin(a)), max(np.cos(a), 0.02), width * max(np.cos(a), 0.02))
             for a in t]
    return loft(section("ellipse", paint), rings, paint), width


def _vehicle(rng, colors):
    """Return a car, bus, engine or truck: body, cabin, wheels."""
    height = rng.uniform(0.35, 0.75)
    body, width = _long_body(rng, some_paint(rng, colors), height,
                             rng.choice(("box", "hull", "frustum", "rounded")))
    parts = [shifted(body, z=0.16)]
    if rng.rand() < 0.8:
        cabin = box(rng.uniform(0.4, 0.65), width * 0.85, rng.uniform(0.25, 0.45),
                    Paint(_swapped(colors), "plain"), top=(rng.uniform(0.6, 1), 0.85))
        parts.append(shifted(cabin, z=0.16 + height))
    radius = rng.uniform(0.22, 0.3)
    tire = Paint({**colors, "side": DARK[4], "top": colors["accent"], "end": DARK[4]}, "plain")
    wheel = loft(section("ellipse", tire), [(0, radius, radius), (0.16, radius, radius)], tire)
    for x in (-0.6, 0.6):
        # the disc's axis is y; its cap in the accent color looks outwards
        standing = rotated(wheel, -90, axis=0)
        parts += with_half_turn(shifted(standing, x=x, y=width - 0.04, z=radius))
    return parts


def _house(rng, colors):
    """Return a long house or barn: walls, a roof, chimneys at the ends or across the corners."""
    height = rng.uniform(0.5, 1.0)
    body, width = _long_body(rng, some_paint(rng, colors), height, "box")
    over, rise = rng.uniform(1.0, 1.15), rng.uniform(0.35, 0.7)
    roof_paint = Paint({**colors, "side": colors["top"], "end": colors["accent"]}, "plain")
    ridge = rng.choice((1.0, 0.45))
    parts = [body, shifted(box(over, width * over, rise, roof_paint, top=(ridge, 0.03)), z=height)]
    if rng.rand() < 0.7:
        stack = box(0.13, 0.13, rise * 1.1, Paint({k: colors["accent"] for k in colors}, "plain"))
        stack = shifted(stack, x=rng.uniform(0.5, 0.7), y=rng.choice((0, -0.45, 0.45)) * width,
                        z=height + 0.15 * rise)
        parts += with_half_turn(stack)
    return parts


def _tower(rng, colors):
    """Return one to three storeys that shrink, each of its own shape."""
    parts, z, scale, palette = [], 0.0, 1.0, colors
    for _ in range(rng.choice((1, 2, 3), p=(0.2, 0.55, 0.25))):
        height = rng.uniform(0.45, 0.9)
        part, _ = _long_body(rng, some_paint(rng, palette), height)
        matrix = np.diag([scale, scale, 1.0, 1.0])
        parts.append(shifted(part.transformed(matrix), z=z))
        z, scale, palette = z + 0.97 * height, scale * rng.uniform(0.6, 0.85), _swapped(palette)
    return parts


def _plane(rng, colors):
    """Return a flying thing: long body, two wings, fins at both ends."""
    height = rng.uniform(0.4, 0.55)
    paint = some_paint(rng, colors, ("plain", "bands", "two_tone", "stripes"))
    body, width = _long_body(rng, paint, height, rng.choice(("capsule", "rounded", "ellipse")),
                             rng.uniform(0.26, 0.36))
    wing_paint = Paint({k: colors["accent"] for k in colors}, "plain")
    span, chord = rng.uniform(0.5, 0.8), rng.uniform(0.22, 0.34)
    wing = box(chord, span / 2, 0.12, wing_paint)
    # one wing forward, the other back: half a turn keeps it
    swirl = rng.choice((0.0, 0.0, 0.3, -0.3))
    parts = [
        body, *with_half_turn(shifted(wing, x=swirl, y=width * 0.7 + span / 2, z=height * 0.4))
    ]
    fin = box(0.2, 0.07, rng.uniform(0.45, 0.7), Paint({k: colors["top"] for k in colors}, "plain"),
              top=(0.6, 1))
    return parts + with_half_turn(shifted(fin, x=0.72, z=height * 0.6))


def _creature(rng, colors):
    """Return an upright slab body with a head and a pair of arms along the long axis."""
    height = rng.uniform(1.0, 1.7)
    body, width = _long_body(rng, some_paint(rng, colors), height,
                             rng.choice(("box", "ellipse", "rounded", "frustum")))
    head_paint = Paint(_swapped(colors), str(rng.choice(("plain", "two_tone", "halves"))))
    head, _ = _long_body(rng, head_paint, 0.6, rng.choice(("box", "capsule", "rounded")))
    parts = [body, shifted(head.transformed(np.diag([0.6, 0.9, 1, 1])), z=height * 0.97)]
    arm = box(rng.uniform(0.3, 0.5), 0.17, 0.26, Paint({k: colors["accent"] for k in colors},
                                                       "plain"))
    arm = shifted(rotated(shifted(arm, x=0.25), rng.uniform(-50, 50), axis=1), x=0.8,
                  z=height * rng.uniform(0.5, 0.75))
    return parts + with_half_turn(arm)


def _arch(rng, colors):
    """Return a bridge or table: two piers at the ends, a deck, perhaps something on top."""
    height, width, pier = rng.uniform(0.6, 1.0), rng.uniform(0.36, 0.5), rng.uniform(0.2, 0.32)
    leg = box(pier, width, height, some_paint(rng, colors, ("plain", "bands", "two_tone")))
    deck = box(1.05, width * 1.1, rng.uniform(0.25, 0.4), some_paint(rng, _swapped(colors)))
    parts = [*with_half_turn(shifted(leg, x=1 - pier)), shifted(deck, z=height)]
    if rng.rand() < 0.6:
        top, _ = _long_body(rng, some_paint(rng, colors), rng.uniform(0.4, 0.7))
        parts.append(shifted(top.transformed(np.diag([0.55, 0.8, 1, 1])), z=height + 0.3))
    return parts


def _pot(rng, colors):
    """Return a vase, teapot or lamp: an oval body of varying girth with two handles.

    The handles lie along the long axis.
    """
    paint = some_paint(rng, colors, ("bands", "two_tone", "stripes", "halves", "plain"))
    height, width = rng.uniform(1.0, 1.6), rng.uniform(0.38, 0.5)
    girth = np.clip(rng.uniform(0.45, 1.0, 4), 0, 1)
    girth[rng.randint(1, 3)] = 1.0
    u = np.linspace(0, 1, 13)
    profile = np.interp(u, np.linspace(0, 1, 4), girth)
    profile = np.convolve(np.pad(profile, 1, mode="edge"), (0.25, 0.5, 0.25), "valid")
    parts = [
        loft(section("ellipse", paint), [(height * a, g, width * g) for a, g in zip(u, profile)],
             paint)
    ]
    solid = Paint({k: colors["accent"] for k in colors}, "plain")
    bar, post = box(0.22, 0.13, 0.16, solid), box(0.09, 0.13, height * 0.45, solid)
    for level in (0.72, 0.27):
        parts += with_half_turn(shifted(bar, x=0.98, z=height * level))
    parts += with_half_turn(shifted(post, x=1.2, z=height * 0.3))
    if rng.rand() < 0.6:
        lid = Paint(_swapped(colors), "plain")
        r = profile[-1] * 0.9
        cone = loft(section("ellipse", lid), [(0, r, width * r),
                                              (0.35, 0.25 * r, 0.25 * width * r)], lid)
        parts.append(shifted(cone, z=height))
    return parts


_KINDS = (_vehicle, _house, _tower, _plane, _creature, _arch, _pot)
KINDS = tuple(kind.__name__.removeprefix("_") for kind in _KINDS)
HELD_OUT = ()       # kinds never trained on: of this family, seeds are held out instead
_SHARES = (0.19, 0.15, 0.2, 0.1, 0.14, 0.1, 0.12)
