"""Elevation of a static orbit, told by its outlines (numpy and numba only).

Only at their true elevation do all cameras' outlines agree on a common hull, unless the object is
one of revolution about the vertical. So the coverage of the masks by the hull is searched over the
elevation, first in coarse steps, then in halved ones around the best.
"""
import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgm.common.errors import argument
from sgm.reconstruct.hull import scene_box, visual_hull
from sgm.reconstruct.posed_views import HALF, ShapeError

CELLS, SIDE = 64, 96            # cells of the hull's grid, pixels of the pictures' longer side
MOST = 24                       # views that are looked at, evenly spread
LOWEST, HIGHEST, STEP = -40, 70, 5      # degrees that are tried first
FINEST = 0.5                    # degrees between the last elevations that are tried
SPACING = 0.1                   # degrees within which two tried ones are one
# Certain: the coverage at the best elevation is above that of all elevations that are so many
# degrees and more away by so much, and is a coverage that true cameras have.
APART, DROP, LEAST = 5.0, 0.01, 0.75
ALIKE = 0.003           # loss of coverage up to which an elevation explains as well as the best
CLEARLY = 0.02          # gain in coverage that makes another elevation clearly better
SAME = 2.0              # degrees within which two elevations are one
FAR = 10.0              # degrees between what the outlines and the picture tell that are warned of
STATIC = 1.0            # degrees by which a static orbit's cameras may differ
# Coverage above which nothing is sought: no other elevation can be clearly better.
BEYOND_DOUBT = 1 - CLEARLY
log = logging.getLogger("sgm")


class Elevation(NamedTuple):
    """The elevation of a static orbit, degrees, and what its outlines tell of it.

    cameras: as they came; used: worked with; coverage: of the masks by the hull at `used`, in
    [0, 1]. None where nothing was sought because that is beyond doubt: told, the elevation that the
    outlines tell; told_coverage; certain: whether no other explains them as well.
    """
    cameras: float
    used: float
    coverage: float
    told: float | None = None
    told_coverage: float | None = None
    certain: bool | None = None

    def __str__(self):
        said = f"elevation {self.used:.1f} degrees, hull covers {self.coverage:.1%} of the masks"
        if self.told is None:
            return said
        certain = "certain" if self.certain else "not certain: others explain them as well"
        if self.told == self.used:
            return f"{said}; told by the outlines ({certain}), the cameras say {self.cameras:.1f}"
        return f"{said}; the outlines tell {self.told:.1f} ({certain}), {self.told_coverage:.1%}"

    def rounded(self):
        """Return the fields for report.json."""
        return {name: round(value, 4) if isinstance(value, float) else value
                for name, value in self._asdict().items()}


def of_orbit(c2w):
    """Return the elevation in degrees of the cameras (V, 4, 4) of a static orbit, else None.

    Its cameras are held level about z, look at one point, and have one elevation about it.
    """
    backward, right = c2w[:, :3, 2], c2w[:, :3, 0]
    away = c2w[:, :3, 3] - scene_box.common_point(c2w)
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    elevations = np.degrees(np.arcsin(np.clip(away[:, 2], -1, 1)))
    is_static = (
        np.ptp(elevations) < STATIC
        and np.abs(right[:, 2]).max() < np.sin(np.radians(STATIC))
        and np.einsum("vi,vi->v", away, backward).min() > np.cos(np.radians(STATIC))
    )
    return round(float(elevations.mean()), 6) if is_static else None


def tilted(c2w, degrees):
    """Return cameras (V, 4, 4) that stand higher by so many degrees about what they look at.

    Azimuths, distances, and where in the pictures that point is, stay as they are.
    """
    center, angle = scene_box.common_point(c2w), np.radians(degrees)
    x, y, z = (c2w[:, :3, k] for k in range(3))
    out = c2w.copy()
    out[:, :3, 1] = np.cos(angle) * y - np.sin(angle) * z
    out[:, :3, 2] = np.cos(angle) * z + np.sin(angle) * y
    turn = out[:, :3, :3] @ c2w[:, :3, :3].transpose(0, 2, 1)
    out[:, :3, 3] = np.einsum("vij,vj->vi", turn, c2w[:, :3, 3] - center) + center
    return out


def reduced(views):
    """Return small pictures of as many views as it takes to tell an elevation."""
    views = views.resized(SIDE)
    if len(views) <= MOST:
        return views
    return views.subset(np.linspace(0, len(views), MOST, endpoint=False).astype(int))


def hull(views, source="the views"):
    """Return a closed hull of small views, and these in its box |x| <= HALF."""
    center, radius = scene_box.sphere(views, source)
    views = views.moved(HALF / radius, center)
    return visual_hull.closed(visual_hull.hull_sdf(views, CELLS, HALF), HALF), views


def coverage(views, source="the views"):
    """Return how much of the masks of small views their hull covers, in [0, 1]."""
    return scene_box.coverage(*hull(views, source))


def search(views, cameras, source="the views"):
    """Return the `Elevation` of a static orbit as its outlines tell it, used as the cameras say.

    Where they do not tell one, `told` is the nearest to `cameras`, degrees, of those that explain
    them about as well as any. views: as read. It takes about 30 hulls.
    """
    small, found = reduced(views), {}

    def at(degrees):
        if min((abs(degrees - other) for other in found), default=SPACING) >= SPACING:
            try:
                found[degrees] = coverage(_raised(small, degrees - cameras), source)
            except ShapeError:          # outlines that meet nowhere
                found[degrees] = 0.0

    at(cameras)
    for degrees in np.arange(LOWEST, HIGHEST + 1, STEP, dtype=float):
        at(float(degrees))
    step = STEP / 2
    while step >= FINEST:
        best = max(found, key=found.get)
        at(best - step), at(best + step)
        step /= 2
    best = max(found, key=found.get)
    at(best - APART), at(best + APART)
    others = max(value for degrees, value in found.items() if abs(degrees - best) >= APART)
    certain = bool(found[best] >= max(LEAST, others + DROP))
    if not certain:
        alike = [degrees for degrees, value in found.items() if value >= found[best] - ALIKE]
        best = min(alike, key=lambda degrees: abs(degrees - cameras))
    return Elevation(cameras, cameras, found[cameras], best, found[best], certain)


def settled(views, wanted=None, is_unknown=False, source="the views", seen=None, estimate=None):
    """Return views whose cameras stand at the elevation to work with, and the `Elevation` or None.

    wanted: degrees; "auto": what the outlines tell; None: the cameras' own, or "auto" where that
    `is_unknown`. An elevation that explains the outlines clearly worse than another is warned of.
    seen: indices of the views that may be looked at; None = all. estimate: the elevation, degrees,
    that a network told of the input view before the others were made, or None; outlines that tell
    another for certain are warned of. None is returned for orbits that are not static. Raises
    ShapeError if such a one is to have another elevation, for another `wanted`, and as
    `scene_box.check_cameras` does.
    """
    if wanted not in (None, "auto") and not (
            isinstance(wanted, (int, float)) and abs(wanted) < 90):
        raise ShapeError(f"{argument('elevation')}: found {wanted!r}, expected auto, or degrees"
                         " between -90 and 90")
    scene_box.check_cameras(views, source)
    cameras = of_orbit(views.c2w)
    wanted = "auto" if wanted is None and is_unknown else wanted
    if cameras is None:
        if wanted is None:
            return views, None
        raise ShapeError(
            f"{source}: {argument('elevation')} {wanted}: found cameras of several elevations, or"
            " that look at several points; expected those of a static orbit: leave it out"
        )
    looked_at = views if seen is None else views.subset(seen)
    if wanted == "auto":
        found = search(looked_at, cameras, source)
        _check_sign(looked_at, found, source)
        if not found.certain:
            log.warning("%s: its outlines do not tell the elevation; of those that explain them,"
                        " the nearest to the cameras' own is taken, %.1f degrees (%s says another)",
                        source, found.told, argument("elevation"))
        _compare(found, estimate, source)
        found = found._replace(used=found.told, coverage=found.told_coverage)
        return _raised(views, found.used - cameras), found
    used = cameras if wanted is None else float(wanted)
    views, looked_at = _raised(views, used - cameras), _raised(looked_at, used - cameras)
    covered, is_beyond_doubt = _judged(looked_at, source)
    if is_beyond_doubt and estimate is None:
        return views, Elevation(cameras, used, covered)
    found = search(looked_at, used, source)._replace(cameras=cameras)
    _compare(found, estimate, source)
    if found.told_coverage >= found.coverage + CLEARLY and abs(found.told - used) > SAME:
        log.warning(
            "%s: at the elevation of %.1f degrees the views' common hull covers %.0f%% of their"
            " masks, at %.1f degrees %.0f%%: use that, or %s auto",
            source, used, 100 * found.coverage, found.told, 100 * found.told_coverage,
            argument("elevation"),
        )
    return views, found


def _compare(found, estimate, source):
    """Warn if outlines tell for certain another elevation than was estimated of the picture."""
    if estimate is not None and found.certain and abs(found.told - estimate) > FAR:
        log.warning(
            "%s: before the views were made the picture told an elevation of %.0f degrees, their"
            " outlines tell %.0f: look at the views, and give the one that is right as %s",
            source, estimate, found.told, argument("elevation"),
        )


def _check_sign(views, found, source):
    """Raise ShapeError if azimuths that are counted the other way explain the outlines better.

    At the wrong sign no elevation is the right one, so it is sought for both. found: what `search`
    says of `views`.
    """
    if found.told_coverage >= BEYOND_DOUBT:
        return
    other = search(scene_box.mirrored(views, scene_box.common_point(views.c2w)), found.cameras,
                   source)
    if other.told_coverage >= found.told_coverage + scene_box.ADVANTAGE:
        raise ShapeError(
            f"{source}: at no elevation do the outlines agree on more than"
            f" {found.told_coverage:.0%} of the masks; with the azimuths counted the other way they"
            f" do on {other.told_coverage:.0%}, at {other.told:.1f} degrees: give the other"
            f" {argument('azimuth_sign')} (1 or -1)"
        )


def _raised(views, degrees):
    return replace(views, c2w=tilted(views.c2w, degrees)) if degrees else views


def _judged(views, source):
    """Return the coverage of views, and whether no other elevation can be clearly better.

    So it is if their hull covers the masks, or covers them well and better than its neighbors'.
    """
    small = reduced(views)
    covered = coverage(small, source)
    return covered, covered >= BEYOND_DOUBT or covered >= scene_box.POOR and all(
        coverage(_raised(small, by), source) < covered for by in (-APART, APART)
    )
