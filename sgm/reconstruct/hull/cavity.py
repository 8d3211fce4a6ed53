"""Cavity prior: extends concavities that open upwards down to a floor (cups, bowls).

A prior is an assumption about objects that the pictures do not prove. Cameras that look down at 20
degrees see a cup's inside to a quarter of its depth, and what no view sees stays solid; of a plain
cup even the visible part comes out as a shallow bowl, because its walls look alike. Here every
hollow of the surface that would hold water is tried as a vessel with walls and floor of one
thickness: the hull's cross-section below the brim, less a wall, is dug out down to the floor, but
half a wall is left where the surface lies within the hull. A vessel that takes away what the
outlines show, as the handle over a basket, is none. Of the others the wall with which the pictures
agree best is chosen, and the vessel stays only if they agree with it far better than with the
surface as it was. So the visible part of the inside is evidence; the part
below is assumed. Setting depth.cavity=false switches the prior off.
"""
import heapq
import logging

import cv2
import numpy as np

from sgm.reconstruct.hull import sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF

HOLLOW = 0.02                   # box units under its brim that a hollow must reach to be tried
NARROW = 25                     # vertical lines of the grid that it must have
# share that it must have of what a vessel of the thinnest wall would be open; a seat's dent is less
OPEN = 0.15
WALLS = np.arange(1.5, 8.1, 0.5)        # cells: thicknesses that are tried
BETTER = 0.75  # share of the surface's disagreement, below which the vessel is believed
GRAIN = 1 / 255 ** 2            # mean square difference that means nothing
MISSED = 0.002                  # share of the masks that a vessel may uncover
SIDE = 144                      # pixels of the pictures' longer side
log = logging.getLogger("sgm")


def tops(sdf):
    """Return heights (n, n) float64 of the highest surface on every vertical line of a grid.

    They are -HALF where there is none.
    """
    n = sdf.shape[2]
    inside = sdf < 0
    index = n - 1 - np.argmax(inside[..., ::-1], axis=2)
    axis = sdf_grid.vertices(n - 1, HALF).astype(np.float64)
    below, above = (
        np.take_along_axis(sdf, np.minimum(index + d, n - 1)[..., None], 2)[..., 0] for d in (0, 1)
    )
    crosses = inside.any(2) & (above >= 0)
    share = np.where(crosses, below / np.where(crosses, below - above, 1), 0)
    return np.where(inside.any(2), axis[index] + share * (axis[1] - axis[0]), -HALF)


def water_level(heights):
    """Return how high water stands on a landscape (n, m) whose border drains, (n, m).

    That is the lowest brim on the way out, or the ground where that is higher (priority flood;
    Barnes, Lehman & Mulla 2014).
    """
    level = np.full(heights.shape, np.inf)
    border = np.ones(heights.shape, bool)
    border[1:-1, 1:-1] = False
    level[border] = heights[border]
    queue = [(heights[i, j], i, j) for i, j in zip(*np.nonzero(border))]
    heapq.heapify(queue)
    while queue:
        water, i, j = heapq.heappop(queue)
        for x, y in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if 0 <= x < heights.shape[0] and 0 <= y < heights.shape[1] and level[x, y] == np.inf:
                level[x, y] = max(water, heights[x, y])
                heapq.heappush(queue, (level[x, y], x, y))
    return level


def hollows(sdf):
    """Return the hollows of a surface that hold water.

    Of each, a mask (n, n) bool of its vertical lines, and the height of its brim.
    """
    heights = tops(sdf)
    level = water_level(heights)
    count, labels = cv2.connectedComponents(
        (level - heights > HOLLOW).astype(np.uint8), connectivity=4
    )
    regions = [labels == label for label in range(1, count)]
    return [(region, float(level[region].max())) for region in regions if region.sum() >= NARROW]


def depths(sdf):
    """Return how deep every vertex lies within the horizontal cross-section, box units.

    Values are negative outside of it. What a cross-section encloses is part of it.
    """
    cell = 2 * HALF / (sdf.shape[0] - 1)
    found = np.empty(sdf.shape, np.float32)
    for k in range(sdf.shape[2]):
        cover = np.ascontiguousarray(np.clip(0.5 - sdf[:, :, k] / cell, 0, 1))
        labels = cv2.connectedComponents((cover < 0.5).astype(np.uint8), connectivity=4)[1]
        ends = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        cover[(labels > 0) & ~np.isin(labels, ends)] = 1
        found[:, :, k] = -visual_hull.outline_distance(cover)
    return found * np.float32(cell)


def opened(inwards, region, brim, wall):
    """Return where a vessel under the brim of a hollow is open (n, n) bool, and how deep within.

    The latter (n, n) is less the wall, box units. Last, the number of the grid's level below the
    brim. inwards: see `depths`.
    """
    top = int(np.searchsorted(sdf_grid.vertices(inwards.shape[0] - 1, HALF), brim)) - 1
    opening = inwards[:, :, top] - np.float32(wall)
    labels = cv2.connectedComponents((opening > 0).astype(np.uint8), connectivity=4)[1]
    return np.isin(labels, np.unique(labels[region & (labels > 0)])) & (labels > 0), opening, top


def dug(sdf, inwards, region, brim, wall):
    """Return the surface with a vessel dug out under the brim of a hollow.

    wall: its thickness, box units. inwards: see `depths`.
    """
    z = sdf_grid.vertices(sdf.shape[0] - 1, HALF)
    ours, opening, top = opened(inwards, region, brim, wall)
    if not ours.any():
        return sdf
    opening = np.where(ours | (opening <= 0), opening, -np.float32(wall))
    floor = z[np.argmax((inwards[ours] > 0).any(0))] + wall
    # above the brim nothing stands in the opening
    room = np.where(z > z[top], np.inf, inwards - np.float32(wall))
    return np.maximum(sdf, np.minimum(np.minimum(opening[..., None], room), z - np.float32(floor)))


def disagreement(points, pixels, maps, views, tolerance):
    """Return the mean square difference between colors of pixels and those in other views.

    points (N, 3) of the surface, pixels (view, row, column) that show them; maps (V, h, w):
    distance of the surface along every ray; tolerance: box units in distance for seeing a point. A
    point that no other view sees is compared with the mean of all.
    """
    color = views.rgb[pixels]
    total, count = np.zeros(color.shape), np.zeros(len(points))
    for k, c2w in enumerate(views.c2w):
        local = (points - c2w[:3, 3]) @ c2w[:3, :3]
        z = np.maximum(-local[:, 2], 1e-6)
        column = np.floor(views.cx + views.fl_x * local[:, 0] / z).astype(int)
        row = np.floor(views.cy - views.fl_y * local[:, 1] / z).astype(int)
        sees = (row >= 0) & (row < views.h) & (column >= 0) & (column < views.w) & (pixels[0] != k)
        at = k, np.where(sees, row, 0), np.where(sees, column, 0)
        sees &= np.abs(maps[at] - np.linalg.norm(local, axis=1)) < tolerance
        if views.known is not None:
            sees &= views.known[at]
        total[sees] += views.rgb[at][sees]
        count += sees
    others = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], color.mean(0))
    return float(np.square(color - others).mean())


def continued(sdf, outside, views):
    """Dig out the vessels of an object. Return the sdf, and a list of what was found.

    The list has {"wall", "ratio", "dug"} of every hollow: the best wall, box units, the pictures'
    disagreement with it over that with `sdf`, and whether it was dug.
    sdf, outside (R + 1,) * 3 float32: the surface, and the hull around it, closed; views: in the
    box |x| <= HALF.
    """
    views, cell, report = views.resized(SIDE), 2 * HALF / (sdf.shape[0] - 1), []
    masks = views.mask > 0.5
    within_hull, within_surface = depths(outside), depths(np.maximum(sdf, outside))
    for region, brim in hollows(sdf):
        if region.sum() < OPEN * opened(within_hull, region, brim, WALLS[0] * cell)[0].sum():
            continue
        covers, before = sdf_grid.silhouettes(sdf, HALF, views)
        trials = []
        for wall in WALLS * cell:
            inwards = np.minimum(within_hull, within_surface + np.float32(wall / 2))
            trial = dug(sdf, inwards, region, brim, wall)
            covered, distance = sdf_grid.silhouettes(trial, HALF, views)
            if (covers & ~covered & masks).sum() <= MISSED * masks.sum():
                trials.append((wall, trial, distance))
        if not trials:
            continue
        widest = trials[0][2]
        with np.errstate(invalid="ignore"):  # inf - inf
            pixels = np.nonzero(
                (np.abs(before - widest) > cell)
                & np.isfinite(before)
                & np.isfinite(widest)
                & (views.mask > 0.99)
            )
        if not len(pixels[0]):
            continue
        origins, directions = views.rays(*pixels)

        def judged(maps, pixels=pixels, origins=origins, directions=directions):
            # at the eye: no view sees that
            distance = np.where(np.isfinite(maps[pixels]), maps[pixels], 0)
            return disagreement(
                origins + distance[:, None] * directions, pixels, maps, views, 1.5 * cell
            )

        error, wall, trial = min(
            ((judged(maps), wall, trial) for wall, trial, maps in trials),
            key=lambda found: found[0],
        )
        ratio = (error + GRAIN) / (judged(before) + GRAIN)
        report.append(
            {"wall": round(float(wall), 4), "ratio": round(ratio, 3), "dug": ratio < BETTER}
        )
        if ratio < BETTER:
            sdf = trial
            log.info("a hollow is taken for a vessel with walls of %.3f (prior depth.cavity)", wall)
    return sdf, report
