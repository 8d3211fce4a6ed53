"""Objects that move, or could: they face +x, are about 2 long, and stand on z = 0."""
from __future__ import annotations

import numpy as np

from sgm.geometry.mesh import Mesh
from sgm.render.primitives import box, hull, lathe, plain, shifted, tube
from sgm.render.procedural import DARK, LIGHT, MIDDLE, some_paint

TIRE, WINDOW, RED, YELLOW = DARK[4], DARK[0], MIDDLE[0], LIGHT[0]


def along(rng, colors: dict, parts: int) -> np.ndarray:
    """Return the colors (parts, 3) of a body from its back to its front."""
    first, second, third = colors["side"], colors["end"], colors["accent"]
    pattern, cut = rng.choice(("plain", "halves", "nose", "bands")), rng.randint(1, parts)
    if pattern == "halves":
        return np.stack([first] * cut + [second] * (parts - cut))
    if pattern == "bands":
        return np.stack([(first, third)[k % 2] for k in range(parts)])
    return np.stack([first] * (parts - 1) + [third if pattern == "nose" else first])


def wheel(x: float, y: float, radius: float, hub: np.ndarray, width: float = 0.14) -> Mesh:
    """Return a wheel that stands on z = 0, its middle at x, y."""
    rim = (x, 0.5 * radius)
    rows = [(y + s * width / 2, radius - r, radius + r, x - r, x + r)
            for s, r in ((-1, rim[1]), (-1, radius), (1, radius), (1, rim[1]))]
    return hull(rows, (hub, TIRE, hub), axis=1, sides=14)


def car(rng, colors):
    """Return a car: bonnet, windscreen, lamps; saloon, hatchback, van or pick-up."""
    form = rng.choice(("saloon", "hatchback", "van", "pickup"))
    half, low, waist = rng.uniform(0.4, 0.48), 0.16, rng.uniform(0.46, 0.56)
    bonnet, top = waist - rng.uniform(0.02, 0.1), waist + rng.uniform(0.28, 0.38)
    rows = [(-1, 0.88 * half, waist - 0.06), (-0.9, half, waist), (0.35, half, waist),
            (0.85, half, bonnet), (1, 0.85 * half, bonnet - 0.1)]
    body = hull([(x, -w, w, low, z) for x, w, z in rows],
                np.stack([colors["side"]] * 2 + [colors[rng.choice(("side", "end"))]] * 2))
    back, roof = {"saloon": (-0.7, -0.4), "hatchback": (-0.93, -0.75), "van": (-0.96, -0.93),
                  "pickup": (-0.15, -0.1)}[form]
    front = rng.uniform(0.3, 0.5)
    ahead = front - rng.uniform(0.18, 0.35)
    parts = [body, hull([(back, -half, half, waist - 0.02, waist + 0.02),
                         (roof, -0.86 * half, 0.86 * half, waist - 0.02, top),
                         (ahead, -0.86 * half, 0.86 * half, waist - 0.02, top),
                         (front, -half, half, waist - 0.02, waist + 0.02)], WINDOW)]
    cover = box((ahead - roof) / 2 + 0.05, 0.88 * half, 0.06, plain(colors["top"]))
    parts.append(shifted(cover, x=(ahead + roof) / 2, z=top - 0.01))
    if form == "van":       # no windows behind the driver
        parts.append(hull([(back - 0.02, -0.96 * half, 0.96 * half, waist - 0.02, top + 0.01),
                           (ahead - 0.3, -0.96 * half, 0.96 * half, waist - 0.02, top + 0.01)],
                          colors["side"]))
    if form == "pickup":    # the bed, seen from above
        parts.append(shifted(box(0.36, 0.8 * half, 0.04, plain(TIRE)), x=-0.56, z=waist - 0.02))
    lamp, tail = box(0.04, 0.09, 0.12, plain(YELLOW)), box(0.04, 0.1, 0.12, plain(RED))
    for side in (1, -1):
        parts.append(shifted(lamp, x=0.99, y=0.6 * side * half, z=bonnet - 0.26))
        parts.append(shifted(tail, x=-0.99, y=0.66 * side * half, z=waist - 0.24))
    parts.append(shifted(box(0.04, 0.3 * half, 0.1, plain(TIRE)), x=0.99, z=bonnet - 0.25))
    radius = rng.uniform(0.19, 0.24)
    for x in (-0.6, 0.6):
        parts += [wheel(x, s * (half - 0.02), radius, colors["accent"]) for s in (1, -1)]
    return parts


def locomotive(rng, colors):
    """Return a steam engine: boiler and chimney in front, cab behind."""
    half, radius = rng.uniform(0.3, 0.38), rng.uniform(0.22, 0.27)
    deck, girth, split = radius + 0.1, rng.uniform(0.24, 0.31), rng.uniform(-0.45, -0.2)
    parts = [shifted(box(1, half, 0.14, plain(colors["end"])), z=deck - 0.07)]
    middle = deck + girth + 0.02
    boiler = [(x, -girth * r, girth * r, middle - girth * r, middle + girth * r)
              for x, r in ((split, 1), (0.1, 1), (0.3, 1), (0.68, 1), (0.92, 1), (0.98, 0.8))]
    bands = rng.choice((0, 1))
    parts.append(hull(boiler, np.stack([colors["side"], colors["accent" if bands else "side"],
                                        colors["side"], TIRE, TIRE]), sides=14))
    rise = 2 * girth + rng.uniform(0.15, 0.35)
    cab = hull([(-1, -half, half, deck, deck + rise), (split, -half, half, deck, deck + rise)],
               colors["side"])
    roof = shifted(box((split + 1) / 2 + 0.08, half + 0.06, 0.08, plain(colors["top"])),
                   x=(split - 1) / 2, z=deck + rise)
    pane = box((split + 1) / 2 - 0.12, half + 0.02, 0.2, plain(WINDOW))
    parts += [cab, roof, shifted(pane, x=(split - 1) / 2, z=deck + rise - 0.3)]
    width, above = rng.uniform(0.09, 0.12), middle + girth
    high, flare = rng.uniform(0.2, 0.36), rng.uniform(1, 1.9)
    chimney = [(above - 0.1, width), (above + high * 0.5, width), (above + high, width * flare)]
    parts.append(lathe(chimney, TIRE, x=0.78))
    dome = [(above - 0.06, 0.11), (above + 0.06, 0.11), (above + 0.12, 0.06)]
    parts.append(lathe(dome, colors["accent"], x=rng.uniform(0.1, 0.4)))
    parts.append(hull([(0.95, -half, half, 0.06, deck), (1.2, -0.5 * half, 0.5 * half, 0.06, 0.14)],
                      colors["accent"]))
    for x in (-0.68, 0, 0.62):
        r = radius if x < 0.5 else 0.75 * radius
        parts += [wheel(x, s * (half - 0.04), r, colors["top"]) for s in (1, -1)]
    return parts


def ship(rng, colors):
    """Return a ship: bow, a cabin aft or a bridge, a funnel, a mast."""
    half, deck = rng.uniform(0.3, 0.42), rng.uniform(0.36, 0.5)
    line = rng.uniform(0.4, 0.6) * deck
    shape = ((-1, 0.8, 0.95), (-0.5, 1, 0.9), (0.3, 1, 0.92), (0.7, 0.66, 1.05), (1, 0.08, 1.3))
    under = [(x * 0.93, -w * half * 0.88, w * half * 0.88, 0, line) for x, w, _ in shape]
    upper = [(x, -w * half, w * half, line - 0.02, deck * h) for x, w, h in shape]
    parts = [hull(under, colors["end"]), hull(upper, colors["side"])]
    x, length, high = rng.uniform(-0.6, -0.3), rng.uniform(0.22, 0.36), rng.uniform(0.28, 0.5)
    cabin = box(length, 0.68 * half, high, plain(colors["top"]), top=(0.9, 0.95))
    base = 0.85 * deck
    parts.append(shifted(cabin, x=x, z=base))
    pane = box(0.9 * length, 0.67 * half, 0.12, plain(WINDOW))
    parts.append(shifted(pane, x=x + 0.13 * length, z=base + high - 0.2))
    width, top = rng.uniform(0.1, 0.15), base + high + rng.uniform(0.2, 0.4)
    parts.append(lathe([(base, width), (top - 0.12, width), (top, width)],
                       (colors["accent"], TIRE), x=x - 0.4 * length))
    if rng.rand() < 0.6:
        cargo = box(rng.uniform(0.12, 0.2), 0.5 * half, rng.uniform(0.12, 0.25),
                    some_paint(rng, colors))
        parts.append(shifted(cargo, x=0.25, z=base))
    mast = rng.uniform(0.4, 0.7)
    parts.append(shifted(box(0.055, 0.055, mast, plain(colors["accent"])), x=0.58, z=base))
    return parts


def aeroplane(rng, colors):
    """Return an aeroplane: nose, wings, tailplane and fin; propellers or jets."""
    girth, z = rng.uniform(0.15, 0.2), 0.34
    rows = [(-1, 0.3, 0.06), (-0.6, 0.6, 0.03), (-0.15, 1, 0), (0.55, 1, 0), (0.85, 0.75, 0),
            (1, 0.35, -0.02)]
    body = hull([(x, -girth * r, girth * r, z + up - girth * r, z + up + girth * r)
                 for x, r, up in rows], along(rng, colors, 5), sides=14)
    sweep, span, chord = rng.uniform(-0.05, 0.4), rng.uniform(0.8, 1.1), rng.uniform(0.32, 0.46)
    bearing, rise = z + rng.choice((-0.08, 0.12)), rng.uniform(-0.02, 0.12)
    wings = [(y, bearing + abs(y) * rise - 0.06, bearing + abs(y) * rise + 0.06,
              0.3 - abs(y) / span * sweep - chord * (1 - 0.45 * abs(y) / span),
              0.3 - abs(y) / span * sweep) for y in (-span, 0, span)]
    parts = [body, hull(wings, colors["accent"], axis=1)]
    high, tail = rng.uniform(0.3, 0.45), rng.uniform(0.34, 0.46)
    fin = [(z, -1, -0.6, -0.06, 0.06), (z + girth + high, -1.08, -0.84, -0.06, 0.06)]
    parts.append(hull(fin, colors["top"], axis=2))
    level = z + (girth + high - 0.05 if rng.rand() < 0.3 else 0.07)
    plane = [(y, level - 0.06, level + 0.06, -1.05, x)
             for y, x in ((-tail, -0.8), (0, -0.7), (tail, -0.8))]
    parts.append(hull(plane, colors["accent"], axis=1))
    parts.append(hull([(0.45, -0.6 * girth, 0.6 * girth, z, z + 0.9 * girth),
                       (0.6, -0.6 * girth, 0.6 * girth, z, z + 1.2 * girth),
                       (0.85, -0.4 * girth, 0.4 * girth, z, z + 0.7 * girth)], WINDOW))
    if rng.rand() < 0.5:
        hub, blade = 1.04, rng.uniform(0.3, 0.4)
        parts.append(tube([(0.95, 0, z), (1.1, 0, z)], (0.1, 0.05), TIRE))
        parts.append(hull([(-blade, z - 0.06, z + 0.06, hub - 0.05, hub + 0.05),
                           (blade, z - 0.06, z + 0.06, hub - 0.05, hub + 0.05)], TIRE, axis=1))
        return parts
    y = rng.uniform(0.35, 0.5)
    x, low = 0.3 - y / span * sweep, bearing + y * rise - 0.13
    jets = [[(x + ahead, s * y, low) for ahead in (-0.36, -0.1, 0.08)] for s in (1, -1)]
    return parts + [tube(jet, (0.07, 0.11, 0.1), colors["end"], caps=(TIRE, TIRE)) for jet in jets]


def animal(rng, colors):
    """Return an animal on four legs: head, ears, snout and eyes in front, a tail behind."""
    half, leg, deep = rng.uniform(0.22, 0.36), rng.uniform(0.35, 0.75), rng.uniform(0.4, 0.62)
    length = rng.uniform(0.5, 0.75)
    z = leg + deep / 2 - 0.06
    shape = ((-1, 0.45), (-0.8, 0.85), (-0.3, 1), (0.3, 0.95), (0.8, 0.9), (1, 0.5))
    body = hull([(x * length, -half * r, half * r, z - deep / 2 * r, z + deep / 2 * r)
                 for x, r in shape], along(rng, colors, 5), sides=14)
    fur, foot = colors["end" if rng.rand() < 0.5 else "side"], colors["top"]
    thick = rng.uniform(0.08, 0.11)
    parts = [body]
    for x in (-0.68 * length, 0.68 * length):
        parts += [lathe([(0, thick), (0.12, thick), (leg + 0.1, 1.15 * thick)], (foot, fur), x=x,
                        y=s * (half - thick), sides=10) for s in (1, -1)]
    # The neck rises ahead to the head, which looks to +x.
    reach, rise = rng.uniform(0.15, 0.35), rng.uniform(0.05, 0.75)
    x, top = 0.8 * length + reach, z + 0.12 + rise
    neck = rng.uniform(0.11, 0.16)
    parts.append(tube([(0.65 * length, 0, z), (x, 0, top)], (1.3 * neck, neck), colors["side"]))
    size, snout = rng.uniform(0.18, 0.26), rng.uniform(0.16, 0.4)
    head = [(x - size, 0.6), (x - 0.4 * size, 1), (x + 0.6 * size, 1), (x + size, 0.7)]
    color = colors[rng.choice(("side", "end", "accent"))]
    parts.append(hull([(a, -size * r, size * r, top - size * r, top + size * r) for a, r in head],
                      color, sides=12))
    nose = rng.uniform(0.45, 0.65) * size
    parts.append(hull([(a, -b, b, top - 0.2 * size - b, top - 0.2 * size + b)
                       for a, b in ((x + 0.4 * size, nose), (x + size + snout, 0.75 * nose))],
                      colors["top"], sides=12, caps=(colors["top"], TIRE)))
    ear, wide = rng.uniform(0.16, 0.4), rng.uniform(0.06, 0.1)
    for s in (1, -1):
        parts.append(hull([(top + 0.5 * size, x - 0.6 * size, x - 0.6 * size + 0.12,
                            s * 0.6 * size - wide, s * 0.6 * size + wide),
                           (top + size + ear, x - 0.5 * size, x - 0.5 * size + 0.06,
                            s * 0.8 * size - 0.04, s * 0.8 * size + 0.04)],
                          colors["accent"], axis=2))
        parts.append(shifted(box(0.05, 0.05, 0.1, plain(TIRE)), x=x + 0.82 * size,
                             y=s * 0.5 * size, z=top + 0.25 * size))
    end, droop = rng.uniform(0.25, 0.5), rng.uniform(-0.5, 0.5)
    path = [(-0.85 * length, 0, z + 0.1), (-length - 0.4 * end, 0, z + 0.14 + 0.3 * droop),
            (-length - 0.7 * end, 0, z + 0.1 + droop)]
    parts.append(tube(path, (0.09, 0.07, 0.06), (colors["side"], colors["accent"])))
    return parts
