"""Captures: photographs whose poses were measured, as structure from motion does (no gradients).

Such poses are a little off, a few of them far, and a few cut-outs are wrong. What most views agree
on tells which.
"""
import logging
from dataclasses import replace

import numpy as np

from sgm.reconstruct.hull import scene_box, sdf_grid, visual_hull
from sgm.reconstruct.hull.agreement import outline_coverage
from sgm.reconstruct.hull.camera_alignment import refined
from sgm.reconstruct.posed_views import HALF

ENOUGH = 20             # views; of fewer, a minority cannot be told from the rest
SIDE = 192              # pixels of the pictures' longer side
GAIN = 0.02             # gain in coverage that makes refined cameras credible
OUTVOTED = 0.05         # share of the views that may contradict what most show
# A view is odd if the IoU of its mask with the outline of what most show is below this share of the
# views' median; more odd ones than this share are no minority.
ODD, MOST = 0.85, 0.1
log = logging.getLogger("sgm")


def settled(views, source="the views"):
    """Return views as read, those that agree, with refined cameras.

    Cameras that were computed stay as they are; so do those with which the outlines agree anyway,
    and those that `scene_box.framed` may yet refuse. Views whose mask contradicts what most views
    show are left out: their cut-out is wrong, or their camera. `source` is what messages call the
    views.
    """
    if len(views) < ENOUGH or not scene_box.is_measured(views.c2w):
        return views
    small = views.resized(SIDE)
    center, radius = scene_box.narrowed(small, *scene_box.sphere(small, source))
    small = small.moved(HALF / radius, center)
    if outline_coverage(small) >= scene_box.BEYOND_DOUBT:
        return views
    fitted = refined(small)
    agree = agreeing(fitted)
    before, after = (outline_coverage(each.subset(agree)) for each in (small, fitted))
    if after >= max(before + GAIN, scene_box.POOR):     # not where poses are not the pictures'
        c2w = fitted.c2w.copy()
        c2w[:, :3, 3] = c2w[:, :3, 3] * radius / HALF + center
        traces = np.einsum("vij,vij->v", views.c2w[:, :3, :3], c2w[:, :3, :3])
        turns = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1)))
        log.info("%s: the cameras' poses are refined, turned by %.1f degrees and at most %.1f;"
                 " their common hull covers %.0f%% of the masks rather than %.0f%%", source,
                 np.median(turns), turns.max(), 100 * after, 100 * before)
        views = replace(views, c2w=c2w)
    else:
        agree = agreeing(small)
    if len(agree) < len(views):
        odd = np.setdiff1d(np.arange(len(views)), agree)
        names = ", ".join(views.files[k].name if views.files else str(k) for k in odd)
        log.warning("%s: left out, because their cut-outs or their cameras contradict the other"
                    " views: %s", source, names)
    return views.subset(agree)


def agreeing(views):
    """Return indices of the views in the box |x| <= HALF that agree with what most of them show."""
    hull = visual_hull.hull_sdf(views, scene_box.LOW, HALF, int(OUTVOTED * len(views)))
    seen, _ = sdf_grid.silhouettes(visual_hull.closed(hull, HALF), HALF, views)
    if views.known is not None:
        seen &= views.known
    masks = views.mask > 0.5
    ious = (seen & masks).sum((1, 2)) / np.maximum((seen | masks).sum((1, 2)), 1)
    agree = np.flatnonzero(ious >= ODD * np.median(ious))
    return agree if len(agree) >= (1 - MOST) * len(views) else np.arange(len(views))
