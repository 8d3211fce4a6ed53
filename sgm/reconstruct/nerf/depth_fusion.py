"""Depth fusion: from a field's depth maps to a signed distance of one solid piece.

A field's density is not a distance: nothing constrains it inside an object, so a threshold finds
hollow shells. What pictures do constrain is where a ray loses its light. Those depths are fused as
a truncated distance (Curless & Levoy 1996) on the grid of the hull and joined with it; what no view
sees stays solid.
"""
import logging

import numpy as np
from numba import njit

from sgm.common.progress import each
from sgm.reconstruct.hull import cavity, flat_base, sdf_grid, visual_hull
from sgm.reconstruct.hull.sdf_grid import blurred, one_piece
from sgm.reconstruct.nerf import volume_rendering
from sgm.reconstruct.posed_views import HALF

SHARE = 0.5             # share of its final opacity that a ray has lost at the surface
OPAQUE = 0.5            # opacity below which a ray has no surface
# share of the pixels where hull and object nearly touch; no larger bias is believed
TIGHT, FARTHEST = 0.25, 0.03
OUTLINE = 0.05  # weight of the error of alpha by that of color: DMTet corrects outlines first
# see `choice`; between .3 (panda, mug) and .7 (duck), where the rest of the mesh decides
TEXTURED = 0.5
SCORED = 144  # pixels of the longer side of the pictures that candidates are compared with
log = logging.getLogger("sgm")


def depth_maps(trainer, side, samples, progress=False):
    """Return views at most `side` pixels large, and distances along their rays to the surface.

    The distances (V, h, w) are float32, inf where there is no surface.
    """
    views = trainer.views.resized(side)
    rows, columns = np.divmod(np.arange(views.h * views.w), views.w)
    maps = np.full((len(views), views.h * views.w), np.inf, np.float32)
    for k in each(range(len(views)), "depth", "view", quiet=not progress):
        chosen = np.flatnonzero(views.mask[k].reshape(-1) > 0.5)
        rays = views.rays(np.full(len(chosen), k), rows[chosen], columns[chosen])
        sigma, _, t, delta, _, _ = trainer.march(*rays, samples)
        depth, opacity = volume_rendering.surface_depth(sigma, delta, t, SHARE)
        maps[k, chosen] = np.where(opacity > OPAQUE, depth, np.inf)
    return views, maps.reshape(len(views), views.h, views.w)


@njit(cache=True)
def _fuse(maps, eyes, world_to_camera, intrinsics, axis, truncation, offset):
    count, height, width = maps.shape
    n = len(axis)
    out = np.empty((n, n, n), np.float32)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                total, seen = 0.0, 0
                for v in range(count):
                    m = world_to_camera[v]
                    x = m[0, 0] * axis[i] + m[0, 1] * axis[j] + m[0, 2] * axis[k] + m[0, 3]
                    y = m[1, 0] * axis[i] + m[1, 1] * axis[j] + m[1, 2] * axis[k] + m[1, 3]
                    z = -(m[2, 0] * axis[i] + m[2, 1] * axis[j] + m[2, 2] * axis[k] + m[2, 3])
                    if z < 1e-3:
                        continue
                    a = int(np.floor(intrinsics[2] + intrinsics[0] * x / z))
                    b = int(np.floor(intrinsics[3] - intrinsics[1] * y / z))
                    if (
                        a < 0
                        or b < 0
                        or a >= width
                        or b >= height
                        or not np.isfinite(maps[v, b, a])
                    ):
                        continue
                    away = np.sqrt(
                        (axis[i] - eyes[v, 0]) ** 2
                        + (axis[j] - eyes[v, 1]) ** 2
                        + (axis[k] - eyes[v, 2]) ** 2
                    )
                    ahead = maps[v, b, a] - offset - away
                    if ahead > -truncation:         # what lies deeper, this view does not see
                        total += min(ahead, truncation)
                        seen += 1
                out[i, j, k] = total / seen if seen else -truncation
    return out


def fuse(maps, views, resolution, truncation, offset=0.0):
    """Return the truncated signed distance (R + 1,) * 3 float32 of distance maps (V, h, w).

    It is the mean over the views that see a vertex, or nearly; -truncation where none does. offset
    is subtracted from every depth.
    """
    return _fuse(maps, views.c2w[:, :3, 3].copy(), np.linalg.inv(views.c2w), views.intrinsics,
                 sdf_grid.vertices(resolution, HALF), truncation, offset)


def deep_only(outside, fused, deep):
    """Join `fused` with the hull `outside` only where it lies more than `deep` below the hull.

    Near its outline a hull is better than depth, which is a little noisy; in cavities it knows
    nothing.
    """
    seeds = ((fused > 0) & (outside < -deep)).astype(np.float32)
    reach = deep * (outside.shape[0] - 1) / (2 * HALF)
    share = np.clip(4 * blurred(seeds, max(reach, 1.0)), 0, 1)
    return outside + share * (np.maximum(outside, fused) - outside)


def bias(maps, views, sdf):
    """Return by how much distance maps (V, h, w) lie too deep, box units.

    A density rises over a length, the softer the longer. Every view's object touches its hull (a
    closed grid `sdf`) along a curve, and on convex parts they are close: there both distances
    should agree. So it is a low quantile of the difference, between 0 and FARTHEST.
    """
    _, distance = sdf_grid.silhouettes(sdf, HALF, views)
    known = np.isfinite(maps) & np.isfinite(distance)
    if not known.any():
        return 0.0
    return float(np.clip(np.quantile(maps[known] - distance[known], TIGHT), 0, FARTHEST))


def score(sdf, field, views, deeper=0.0):
    """Score how a surface with the field's colors explains pictures. Return its IoU and an error.

    The IoU is that of silhouettes. The error is the mean square of color where picture and surface
    overlap, plus OUTLINE times that of alpha where either has something. views: small. deeper: how
    far behind a surface the field has its colors, see `bias`.
    """
    seen, distance = sdf_grid.silhouettes(sdf, HALF, views)
    if views.known is not None:
        seen &= views.known
    solid = views.mask > 0.5
    view, row, column = np.nonzero(seen & solid)
    origins, directions = views.rays(view, row, column)
    color = field.evaluate(
        origins + (distance[view, row, column, None] + np.float32(deeper)) * directions
    )[1]
    off = np.square(color - views.rgb[view, row, column]).mean() if len(view) else 1.0
    outline = np.square(seen - views.mask)[seen | solid].mean()
    ious = (seen & solid).sum((1, 2)) / np.maximum((seen | solid).sum((1, 2)), 1)
    return float(ious.mean()), float(off + OUTLINE * outline)


def choice(errors):
    """Return the name of the fusion to use, of {name: error}.

    "max" has the noise of the depth everywhere, which only pays where texture shows depth, so that
    the error falls below TEXTURED times the hull's; else the better of the others is used.
    """
    if len(errors) > 1 and errors["max"] > TEXTURED * errors["hull"]:
        errors = {name: error for name, error in errors.items() if name != "max"}
    return min(errors, key=errors.get)


def surface(trainer, hull, settings, progress=False):
    """Return the signed distance (R + 1,) * 3 float32 to start a mesh from, and how it was chosen.

    hull: a `stages.Hull` whose open grid has `settings.resolution` cells. The fusions that
    `settings.fusion` allows are made, compared with the pictures by `score`, and one is chosen by
    `choice`.
    """
    outside = hull.open
    if hull.base is not None:
        outside = flat_base.cut_below(outside, HALF, hull.base)
    candidates, offset = {}, 0.0
    if settings.fusion in ("auto", "hull"):
        candidates["hull"] = outside
    if settings.fusion != "hull":
        views, maps = depth_maps(trainer, settings.side, settings.samples, progress)
        offset = bias(maps, views, visual_hull.closed(outside, HALF))
        fused = fuse(maps, views, settings.resolution, settings.truncation, offset)
        if settings.blur:
            fused = blurred(fused, settings.blur)
        if settings.fusion in ("auto", "max"):
            candidates["max"] = np.maximum(outside, fused)
        if settings.fusion in ("auto", "deep"):
            candidates["deep"] = deep_only(outside, fused, settings.deep)
    small, found = trainer.views.resized(SCORED), {}
    for name, candidate in each(candidates.items(), "fusion", "candidate", quiet=not progress):
        candidate = visual_hull.closed(blurred(candidate, settings.smooth), HALF)
        candidates[name] = candidate = one_piece(candidate, hull.agreeing)
        iou, error = score(candidate, trainer.field, small, offset)
        found[name] = {"iou": round(iou, 4), "error": round(error, 6)}
    best = choice({name: figures["error"] for name, figures in found.items()})
    log.info("surface: %s (silhouette IoU %.3f)", best, found[best]["iou"])
    sdf, chosen = candidates[best], {"fusion": best, "bias": round(offset, 4), "candidates": found}
    if settings.cavity:
        sdf, chosen["hollows"] = cavity.continued(
            sdf, visual_hull.closed(outside, HALF), trainer.views
        )
    return one_piece(sdf, hull.agreeing), chosen
