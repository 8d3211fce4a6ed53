"""Objects of a household: they face +x, are about 2 long or high, and stand on z = 0."""
from __future__ import annotations

import numpy as np

from sgm.render.primitives import (
    box,
    hull,
    lathe,
    loft,
    plain,
    rotated,
    section,
    shifted,
    tube,
)
from sgm.render.procedural import DARK, LIGHT, some_paint

HOLLOW, BULB = DARK[4], LIGHT[0]
VESSEL = ("plain", "bands", "two_tone", "stripes", "checker")


def ear(x: float, low: float, high: float, reach: float, thick: float, color, power: float):
    """Return a handle from z low to high that stands out to -x by `reach`.

    thick: half its thickness. power: of its outline |x|^(2/power) + |z|^(2/power) = 1, 1 an
    ellipse, less towards a rectangle.
    """
    angles = np.linspace(np.pi / 2, -np.pi / 2, 9)
    bent = [np.sign(f) * np.abs(f) ** power for f in (np.cos(angles), np.sin(angles))]
    z = (low + high) / 2 + (high - low) / 2 * bent[1]
    return tube(np.stack([x - reach * bent[0], 0 * z, z], 1), thick, color, sides=10)


def vessel(rng, colors, profile):
    """Return a painted round body; profile: rows (z, radius)."""
    paint = some_paint(rng, colors, VESSEL)
    return loft(section("ellipse", paint), [(z, r, r) for z, r in profile], paint)


def mug(rng, colors):
    """Return a mug: one handle."""
    high, wide = rng.uniform(1.0, 1.8), rng.uniform(0.5, 0.7)
    foot, waist = wide * rng.uniform(0.65, 1), wide * rng.uniform(0.85, 1.1)
    body = vessel(rng, colors, [(0, foot), (high / 2, waist), (high, wide)])
    edge = wide + 0.03
    rim = lathe([(high - 0.04, edge), (high + 0.12, edge), (high + 0.12, wide - 0.1),
                 (high + 0.01, wide - 0.1)], colors[rng.choice(("side", "accent"))],
                sides=24, caps=(colors["top"], colors["top"]))
    low, top = rng.uniform(0.12, 0.3) * high, rng.uniform(0.75, 0.92) * high
    handle = ear(-0.9 * min(waist, foot), low, top, rng.uniform(0.4, 0.6), rng.uniform(0.08, 0.12),
                 colors[rng.choice(("side", "end", "accent"))], rng.uniform(0.45, 1))
    return [body, rim, handle]


def teapot(rng, colors):
    """Return a teapot: spout in front, handle behind, a lid."""
    high, wide, shoulder = rng.uniform(0.8, 1.2), rng.uniform(0.55, 0.7), rng.uniform(0.5, 0.75)
    neck = shoulder * wide
    body = vessel(rng, colors, [(0, 0.7 * wide), (0.25 * high, 0.95 * wide), (0.5 * high, wide),
                                (0.8 * high, 0.5 * (wide + neck) + 0.05), (high, neck)])
    lid = lathe([(high - 0.02, 0.95 * neck), (high + 0.06, 0.95 * neck), (high + 0.18, 0.4 * neck),
                 (high + 0.19, 0.07), (high + 0.25, 0.11), (high + 0.33, 0.09)],
                np.stack([colors["top"]] * 3 + [colors["accent"]] * 2), sides=20)
    tip = rng.uniform(0.5, 0.7)
    spout = tube([(0.75 * wide, 0, 0.3 * high), (wide + 0.4 * tip, 0, 0.42 * high),
                  (wide + 0.65 * tip, 0, 0.75 * high), (wide + tip, 0, 1.02 * high)],
                 (0.22, 0.16, 0.1, 0.08), colors["end"], caps=(colors["end"], HOLLOW))
    handle = ear(-0.85 * wide, 0.2 * high, 0.85 * high, rng.uniform(0.45, 0.65), 0.08,
                 colors["accent"], rng.uniform(0.5, 1))
    return [body, lid, spout, handle]


def watering_can(rng, colors):
    """Return a watering can: a long spout with its rose, and a handle over the open back."""
    high, wide = rng.uniform(0.8, 1.2), rng.uniform(0.45, 0.6)
    body = vessel(rng, colors, [(0, wide), (high, wide * rng.uniform(0.8, 1))])
    x, z = wide + rng.uniform(0.7, 1), high * rng.uniform(0.9, 1.2)
    start = np.array((0.8 * wide, 0, 0.2 * high))
    ahead = np.array((x, 0, z)) - start
    spout = tube([start, (x, 0, z)], (0.13, 0.08), colors["end"])
    size = rng.uniform(0.18, 0.26)
    rose = tube([start + ahead * t for t in (0.95, 1.1, 1.14)], (0.08, size, size),
                colors["accent"], sides=14, caps=(colors["accent"], colors["top"]))
    over = rng.uniform(0.3, 0.5)
    angles = np.radians(np.linspace(20, 210, 11))
    path = np.stack([-0.25 * wide + wide * np.cos(angles), 0 * angles,
                     0.85 * high + (over + 0.15 * high) * np.sin(angles)], 1)
    handle = tube(path, 0.075, colors["accent"], sides=10)
    # half of the top is covered
    cover = hull([(high - 0.02, 0, 0.75 * wide, -0.6 * wide, 0.6 * wide),
                  (high + 0.1, 0, 0.7 * wide, -0.5 * wide, 0.5 * wide)], colors["side"], axis=2)
    return [body, spout, rose, handle, cover]


def lamp(rng, colors):
    """Return a desk lamp: a foot, a bent arm, a shade that shines ahead and down."""
    foot = rng.uniform(0.36, 0.5)
    base = lathe([(0, foot), (0.1, foot), (0.16, 0.5 * foot)], (colors["side"], colors["top"]),
                 sides=18)
    elbow = np.array((-rng.uniform(0.3, 0.6), 0, rng.uniform(0.75, 1.05)))
    head = elbow + (rng.uniform(0.6, 0.9), 0, rng.uniform(0.2, 0.5))
    arm = tube([(0, 0, 0.08), elbow], 0.06, colors["end"], sides=10)
    fore = tube([elbow, head], 0.055, colors["end"], sides=10)
    joints = [tube([p + (0, y, 0) for y in (-0.1, 0.1)], 0.1, colors["accent"], across=(1, 0, 0))
              for p in (elbow, head)]
    tilt = np.radians(rng.uniform(35, 75))
    ahead = np.array((np.cos(tilt), 0, -np.sin(tilt)))
    long, wide = rng.uniform(0.4, 0.55), rng.uniform(0.28, 0.4)
    shade = tube([head + ahead * t for t in (-0.15, 0.1, long)], (0.13, 0.18, wide),
                 (colors["accent"], colors["side"]), sides=18, caps=(colors["accent"], BULB))
    return [base, arm, fore, *joints, shade]


def chair(rng, colors):
    """Return a chair: a back of a panel, slats or rungs."""
    wide, deep, seat = rng.uniform(0.42, 0.52), rng.uniform(0.42, 0.52), rng.uniform(0.75, 0.95)
    thick = rng.uniform(0.06, 0.08)
    parts = [shifted(box(deep, wide, 0.12, some_paint(rng, colors)), z=seat)]
    leg = plain(colors["end"])
    for x in (-1, 1):
        parts += [shifted(box(thick, thick, seat + 0.02, leg), x=x * (deep - thick),
                          y=s * (wide - thick)) for s in (1, -1)]
    high, form = rng.uniform(0.75, 1.1), rng.choice(("panel", "slats", "rungs"))
    back = [shifted(box(thick, thick, high, leg), y=s * (wide - thick)) for s in (1, -1)]
    if form == "panel":
        panel = box(0.06, wide - 0.02, 0.65 * high, some_paint(rng, colors, ("plain", "bands",
                                                                            "two_tone")))
        back.append(shifted(panel, z=0.33 * high))
    elif form == "slats":
        back.append(shifted(box(0.07, wide, 0.16, plain(colors["accent"])), z=high - 0.16))
        back += [shifted(box(0.05, 0.06, high - 0.1, plain(colors["side"])), y=y)
                 for y in (-0.4 * wide, 0, 0.4 * wide)]
    else:
        back += [shifted(box(0.05, wide - 0.02, 0.13, plain(colors["accent"])), z=f * high)
                 for f in (0.3, 0.58, 0.86)]
    tilt = rng.uniform(0, 12)
    parts += [shifted(rotated(part, -tilt, axis=1), x=thick - deep, z=seat + 0.04) for part in back]
    if rng.rand() < 0.4:
        parts.append(shifted(box(0.85 * deep, 0.85 * wide, 0.1, plain(colors["top"])), x=0.05,
                             z=seat + 0.1))
    return parts


def armchair(rng, colors):
    """Return an armchair or a sofa: arms, a back, cushions, feet."""
    wide, deep, foot = rng.uniform(0.5, 1.0), rng.uniform(0.5, 0.62), rng.uniform(0.06, 0.2)
    seat, arm, back = rng.uniform(0.3, 0.4), rng.uniform(0.55, 0.75), rng.uniform(0.85, 1.2)
    thick = rng.uniform(0.12, 0.18)
    parts = [shifted(box(deep, wide, seat, plain(colors["side"])), z=foot)]
    for x in (-0.8, 0.8):
        parts += [shifted(box(0.07, 0.07, foot + 0.02, plain(colors["end"])), x=x * deep,
                          y=s * 0.9 * wide) for s in (1, -1)]
    rest = box(deep, thick, arm, plain(colors["end"]), top=(0.95, rng.choice((0.7, 1.0))))
    parts += [shifted(rest, y=s * (wide + thick - 0.02), z=foot) for s in (1, -1)]
    behind = box(0.13, wide + thick, back, some_paint(rng, colors, ("plain", "two_tone", "bands")))
    parts.append(shifted(rotated(behind, -rng.uniform(0, 12), axis=1), x=0.1 - deep, z=foot))
    count = 1 if wide < 0.75 else 2
    for k in range(count):
        y = (2 * k + 1 - count) * wide / count
        cushion = box(0.85 * deep, 0.94 * wide / count, 0.14, plain(colors["top"]),
                      top=(0.95, 0.95))
        parts.append(shifted(cushion, x=0.12 * deep, y=y, z=foot + seat - 0.01))
        if rng.rand() < 0.5:
            pillow = box(0.08, 0.6 * wide / count, 0.36, plain(colors["accent"]))
            parts.append(shifted(rotated(pillow, -15, axis=1), x=0.36 - deep, y=y,
                                 z=foot + seat + 0.1))
    return parts


def boot(rng, colors):
    """Return a boot or a shoe: the toe in front, a heel behind."""
    half, shaft, ankle = rng.uniform(0.27, 0.35), rng.uniform(0.75, 1.6), rng.uniform(0.24, 0.3)
    sole, heel = rng.uniform(0.1, 0.16), rng.choice((0, 0.1, 0.16, 0.22))
    plan = ((-0.68, 0.55), (-0.55, 0.9), (-0.2, 0.9), (0.35, 1.1), (0.75, 0.95), (0.95, 0.5))
    drop = [heel if x < 0 else 0.0 for x, _ in plan]
    parts = [hull([(x, -half * w, half * w, d, d + sole) for (x, w), d in zip(plan, drop)],
                  colors["end"])]
    if heel:
        parts.append(hull([(0, -0.66, -0.25, -0.85 * half, 0.85 * half),
                           (heel + 0.02, -0.66, -0.2, -0.85 * half, 0.85 * half)],
                          colors["end"], axis=2))
    upper = ((-0.65, 0.5, 0.45), (-0.5, 0.85, 0.6), (-0.1, 0.9, 0.66), (0.3, 1.0, 0.45),
             (0.7, 0.9, 0.32), (0.92, 0.4, 0.18))
    toe = colors[rng.choice(("side", "accent"))]
    parts.append(hull([(x, -half * w, half * w, (heel if x < 0 else 0) + 0.4 * sole,
                        heel * (x < 0.2) + sole + high) for x, w, high in upper],
                      np.stack([colors["side"]] * 4 + [toe]), sides=14))
    x, low, top = -0.28, heel + 0.3, heel + sole + shaft
    lean = rng.uniform(-0.08, 0.05)
    rows = [(low, 0, 1.0), ((low + top) / 2, lean / 2, 0.95), (top - 0.18, lean, 1.1),
            (top, lean, 1.15), (top, lean, 0.85), (top - 0.1, lean, 0.85)]
    parts.append(hull([(z, x + b - ankle * 1.3 * r, x + b + ankle * 1.3 * r, -ankle * r, ankle * r)
                       for z, b, r in rows],
                      np.stack([colors["side"]] * 2 + [colors["accent"]] * 2 + [HOLLOW]), axis=2,
                      sides=16))
    if rng.rand() < 0.6:        # laces, or a stripe in front
        for f in (0.3, 0.5, 0.7):
            lace = box(0.06, 0.7 * ankle, 0.08, plain(colors["top"]))
            parts.append(shifted(lace, x=x + 1.28 * ankle, z=low + f * (top - low)))
    return parts
