"""Finds an object's outline by its sharp edges: walls, floors and soft shadows have none.

A ground that is lit unevenly, and a shadow on it, change slowly from pixel to pixel; an object ends
within a pixel or two. An edge is sharp where the gradient at a fine scale exceeds that at three
times the scale (compare Elder and Zucker 1998, who find the blur of an edge by its scales). What a
disc can reach from the picture's border without crossing such an edge is ground; regions that it
reaches through a narrow gap, and enclosed ones, are told apart by their colors. This is done for
several limits of sharpness. White objects on white have gaps in their outline: further masks are
all that discs of several sizes cannot reach. Each mask has a score that says how well it explains
the picture.
"""
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 640              # pictures are reduced to this side
# Limits of sharpness: factor on the noise at the border, least value in units of Lab.
LIMITS = (1.0, 0.12), (1.6, 0.22), (2.5, 0.5)
SHARP = 0.045           # a sharp edge has this share of the colors' span around it, at least
CLEAR = 0.5             # sharpness of an edge that leaves no doubt: a step of 3.5 in Lab
CLUTTER = 1.2           # noise above which the ground has sharp edges of its own
MARGIN = 0.04           # loss of score up to which the first of several masks is better by itself
DARKEST = 0.42          # share of L that a soft shadow takes at most: a fifth of the light is left
ALIKE = 2.0             # distance in Lab below which two colors are the same
# Gaps in an outline are closed by discs whose radius is such a part of the picture's side.
REACHES = 24, 10, 5


class Outline(NamedTuple):
    """A mask (h, w) bool and how well it explains the picture.

    recall: share of the sharp edges that are in the mask or at its outline; support: share of the
    outline where there is one; distinct: share of the mask whose color is not that of the ground
    around it; all in [0, 1].
    """
    mask: np.ndarray
    recall: float
    support: float
    distinct: float

    @property
    def score(self):
        """Return the evidence for the mask in [0, 1].

        An edge left outside tells more against it than a gap in its outline does; a long outline a
        little.
        """
        length = ((1 + self.raggedness) / 2) ** 0.05
        return self.recall ** 2 * self.support * self.distinct / length

    @property
    def raggedness(self):
        """Return the square of the outline's length, divided by that of a disc of the same area."""
        lines, _ = cv2.findContours(self.mask.astype(np.uint8), cv2.RETR_CCOMP,
                                    cv2.CHAIN_APPROX_NONE)
        length = sum(cv2.arcLength(line, True) for line in lines)
        return length ** 2 / (4 * np.pi * max(self.mask.sum(), 1))


class Edges:
    """The sharp edges of a picture, and outlines made of them.

    rgb: uint8 (H, W, 3), not larger than SIDE.
    """

    def __init__(self, rgb):
        self.side = max(rgb.shape[:2])
        self.lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        self.calm = cv2.GaussianBlur(self.lab, (0, 0), 1.5)
        scales = 1.0, max(1.5, self.side / 500)
        self.parts = [_sharpness(self.lab, scale) for scale in scales]
        self.noise = self.parts[0][1]
        sharpest = np.maximum(*(sharpness for sharpness, _ in self.parts))
        self.strength = np.minimum(np.where(self.above(*LIMITS[0]), sharpest, 0), 4 * CLEAR)

    def above(self, factor, least):
        """Return the edges (H, W) bool that are sharper than the noise times `factor`."""
        (fine, fine_noise), (coarse, coarse_noise) = self.parts
        return (_linked(fine, max(least, 1.3 * factor * fine_noise), self.side)
                | _linked(coarse, max(0.9 * least, factor * coarse_noise), self.side))

    def outline(self, mask):
        """Return a mask as an `Outline`."""
        rim = dilated(mask, 1) & ~eroded(mask, 1)
        total = self.strength.sum()
        if not rim.any() or total <= 0:
            return Outline(mask, 0.0, 0.0, 0.0)
        recall = self.strength[dilated(mask, max(3, round(self.side / 100)))].sum() / total
        found = cv2.dilate(self.strength, _disc(2))[rim]
        away = _away(self.calm, ~dilated(mask, max(2, round(self.side / 100))))[mask]
        distinct = away > max(ALIKE / 2, 0.1 * np.percentile(away, 90))
        return Outline(mask, float(recall), float(np.minimum(found / CLEAR, 1).mean()),
                       float(distinct.mean()))

    @property
    def are_everywhere(self):
        """Return whether the ground has sharp edges of its own, so that these tell little."""
        return self.noise > CLUTTER

    def outlines(self):
        """Return an `Outline` of each mask that the sharp edges suggest.

        First come those with holes, and those that faint edges do not mislead.
        """
        above = [self.above(*limit) for limit in LIMITS[::-1]]
        masks = [_enclosed(self, edges) for edges in above]
        masks += [_closed(self, above[0], part) for part in REACHES]
        return [self.outline(mask) for mask in masks]


def best_of(outlines):
    """Return the number of the first `Outline` whose score is within MARGIN of the best."""
    best = max((result.score for result in outlines), default=0)
    return next((k for k, result in enumerate(outlines) if result.score >= best - MARGIN), None)


def iou(one, other):
    """Return the intersection over union of two masks (H, W) bool."""
    return (one & other).sum() / max((one | other).sum(), 1)


def dilated(mask, r):
    """Return a mask (H, W) bool, larger by r pixels."""
    return cv2.dilate(mask.astype(np.uint8), _disc(r)) > 0


def eroded(mask, r):
    """Return a mask (H, W) bool, smaller by r pixels; the picture's border does not count."""
    return cv2.erode(mask.astype(np.uint8), _disc(r)) > 0


def squared_length(vectors):
    """Return the square of the length of each vector of (H, W, 3): (H, W)."""
    return sum(part * part for part in cv2.split(vectors))      # numpy is slow along short axes


def _threefold(weight):
    return cv2.merge([weight] * 3)


def _disc(r):
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1,) * 2)


def _gradient(lab, scale):
    calm = cv2.GaussianBlur(lab, (0, 0), scale)
    across, down = cv2.Sobel(calm, -1, 1, 0, ksize=3), cv2.Sobel(calm, -1, 0, 1, ksize=3)
    return np.sqrt(sum(cv2.split(across ** 2 + down ** 2))) / 8


def _sharpness(lab, scale):
    """Return the sharpness of each pixel (H, W) float32 and the noise in it.

    It is 0 where colors change as slowly as a blurred edge does. A step of height h has 0.15 h. The
    noise is that of the middling parts of the border.
    """
    sharpness = scale * np.maximum(0, _gradient(lab, scale) - 1.3 * _gradient(lab, 3 * scale))
    height, width = sharpness.shape
    b = max(4, round(min(height, width) / 16))
    strips = sharpness[:b], sharpness[-b:], sharpness[b:-b, :b].T, sharpness[b:-b, -b:].T
    noise = np.percentile([np.percentile(part, 95) for strip in strips for part in
                           np.array_split(strip, max(4, strip.shape[1] // b), axis=1) if part.size],
                          60)
    # what JPEG leaves around a strong edge is no edge
    calm = cv2.GaussianBlur(lab, (0, 0), 1.0)
    window = np.ones((2 * round(5 * scale) + 1,) * 2, np.uint8)
    span = np.sqrt(squared_length(cv2.dilate(calm, window) - cv2.erode(calm, window)))
    sharpness[sharpness < SHARP * span] = 0
    return sharpness, float(noise)


def _linked(sharpness, limit, side):
    """Return the edges above a limit that are long, and somewhere above twice the limit."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (sharpness > limit).astype(np.uint8), connectivity=8)
    keep = np.zeros(count, bool)
    keep[np.unique(labels[sharpness > 2 * limit])] = True
    keep &= stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) >= max(4, side / 60)
    keep[0] = False
    return keep[labels]


def _enclosed(picture, edges):
    """Return the mask (H, W) bool of what some of a picture's edges enclose.

    picture: `Edges`. What lies behind a gap in the outline is told by its color.
    """
    gates, side = _ground_at_border(picture.calm, edges), picture.side
    # a large disc does not enter the object by a gap in its outline; a small one enters any bay
    safe = _flood(~edges, max(3, round(side / REACHES[0])), gates)
    reached = _flood(~edges, _least(side), gates)
    return _carved(picture.calm, edges, *_judged(picture.calm, edges, safe, reached, side), side)


def _closed(picture, edges, part):
    """Return the mask (H, W) bool of what a disc cannot reach, whose radius is a part of the side.

    It has no holes, and no gaps where the outline cannot be seen.
    """
    safe = _flood(~edges, max(3, round(picture.side / part)),
                  _ground_at_border(picture.calm, edges))
    return _carved(picture.calm, edges, ~safe, np.zeros_like(safe), picture.side)


def _least(side):
    """Return the radius of the smallest disc that parts an edge from what is beside it."""
    return max(1, round(side / 250))


def _carved(calm, edges, solid, holes, side):
    """Return a mask (H, W) bool without its rims of ground and without pieces that are none."""
    # rims: from what is known, through edges whose colors are those of the ground
    known = ~solid
    if not known.any():
        return solid
    away = _away(calm, eroded(known, max(1, round(side / 400))))
    near = np.ones((2 * round(side / 100) + 1,) * 2, np.uint8)
    alike = away < np.maximum(ALIKE, 0.25 * cv2.dilate(away * solid, near))
    alike &= edges | dilated(known, _least(side) + 1)
    alike &= dilated(known | holes, max(3, round(side / 80)))
    _, labels = cv2.connectedComponents((known | holes | alike).astype(np.uint8), connectivity=4)
    carved = np.isin(labels, np.unique(labels[known | holes])) & (labels > 0)
    solid = cv2.morphologyEx((~carved).astype(np.uint8), cv2.MORPH_OPEN, _disc(1),
                             borderType=cv2.BORDER_REPLICATE) > 0
    # pieces that hardly differ from what is around them are none
    count, labels, stats, _ = cv2.connectedComponentsWithStats(solid.astype(np.uint8))
    area = stats[:, cv2.CC_STAT_AREA]
    mean = np.bincount(labels.ravel(), np.minimum(away, 30).ravel(), count) / np.maximum(area, 1)
    main = int(np.argmax(np.where(np.arange(count) > 0, area * mean, -1)))
    keep = (mean > 0.3 * mean[main]) & (area >= 2e-4 * solid.size)
    keep[0] = False
    return keep[labels]


def _ground_at_border(calm, edges):
    """Return (H, W) bool, whose outermost pixels say where the border shows ground.

    Edges cut the border into runs; those of like color belong together. Ground has two corners of
    the picture, or most of the border; an object that the picture cuts off has neither.
    """
    height, width = edges.shape
    top, bottom = np.arange(width), np.arange(width)[::-1]
    left, right = np.arange(1, height - 1)[::-1], np.arange(1, height - 1)
    rows = np.concatenate([np.zeros(width, int), right, np.full(width, height - 1), left])
    columns = np.concatenate([top, np.full(len(right), width - 1), bottom,
                              np.zeros(len(left), int)])
    cut = dilated(edges, 2)[rows, columns]
    gates = np.ones((height, width), bool)
    if not cut.any():
        return gates
    start = int(np.argmax(cut))             # the sequence is closed: begin at a cut
    rows, columns, cut = (np.roll(a, -start) for a in (rows, columns, cut))
    run = np.cumsum(np.diff(cut.astype(int), prepend=1) == -1) * ~cut       # 0: an edge
    colors = calm[rows, columns]
    corner = np.isin(rows, (0, height - 1)) & np.isin(columns, (0, width - 1))
    corner |= np.roll(corner, 1) | np.roll(corner, -1)
    runs = [k for k in range(1, run.max() + 1) if (run == k).sum() > max(3, 0.01 * len(run))]
    ends = {k: np.stack([np.median(part, axis=0) for part in
                         np.array_split(colors[run == k], 4)]) for k in runs}
    group = {k: k for k in runs}
    for k in runs:
        for other in runs:
            apart = np.linalg.norm(ends[k][:, None] - ends[other][None], axis=-1).min()
            if other < k and apart < 2 * ALIKE:
                mine, its = group[k], group[other]
                group = {name: its if value == mine else value for name, value in group.items()}
    ground = np.zeros(len(run), bool)
    longest = max(runs, key=lambda k: (run == k).sum(), default=0)
    for value in set(group.values()):
        members = np.isin(run, [k for k in runs if group[k] == value])
        if corner[members].sum() >= 4 or members.mean() > 0.4 or value == group[longest]:
            ground |= members
    gates[rows, columns] = ground
    return gates


def _flood(free, r, gates):
    """Return what a disc of radius r reaches from outside, (H, W) bool.

    free: where it may be; gates: at which of the outermost pixels it may enter.
    """
    m = r + 1
    open_ = cv2.copyMakeBorder(gates.astype(np.uint8), m, m, m, m, cv2.BORDER_REPLICATE)
    open_[m:-m, m:-m] = free
    core = (cv2.distanceTransform(open_, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > r).astype(np.uint8)
    _, labels = cv2.connectedComponents(core, connectivity=4)
    outside = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    reached = np.isin(labels, np.unique(outside)) & (labels > 0)
    away = cv2.distanceTransform((~reached).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (away <= r)[m:-m, m:-m] & free


def _spread(colors, known):
    """Return (H, W, 3) float32: the known colors, and what lies between them filled in smoothly.

    A pyramid of means, of half the size at its finest; each level fills in what the finer one does
    not know.
    """
    weight = known.astype(np.float32)
    levels = [(colors * _threefold(weight), weight)]
    while min(levels[-1][1].shape) > 2:
        h, w = levels[-1][1].shape
        half = (w + 1) // 2, (h + 1) // 2
        levels.append(tuple(cv2.resize(a, half, interpolation=cv2.INTER_AREA)
                            for a in levels[-1]))
    total, weight = levels.pop()
    filled = total / _threefold(np.maximum(weight, 1e-6))
    for total, weight in levels[:0:-1]:
        filled = cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        sure = _threefold(np.minimum(4 * weight, 1))
        filled = sure * total / _threefold(np.maximum(weight, 1e-6)) + (1 - sure) * filled
    return cv2.resize(filled, known.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _away(colors, known):
    """Return how far colors (H, W) are from those that the known ones spread to."""
    return np.sqrt(squared_length(colors - _spread(colors, known)))


def _judged(calm, edges, safe, reached, side):
    """Return what is object and which regions in it are holes, two masks (H, W) bool.

    safe, reached: what a large and a small disc reach. Each region that the large one does not
    reach is object or ground by its color, compared with the ground around it, and by whether only
    an edge, nothing solid, parts it from safe ground.
    """
    pixels = edges.size
    solid, holes, filled = ~reached, np.zeros_like(edges), np.zeros_like(edges)
    far = eroded(safe, max(2, round(side / 200)))
    if not far.any():
        return solid, holes
    offset = calm - _spread(calm, far)
    away = np.sqrt(squared_length(offset))
    limit = max(ALIKE, float(np.percentile(away[far], 90)))
    margin = max(6, round(side / 100))
    beside_safe = dilated(safe, margin)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        eroded(~edges & ~safe, 1).astype(np.uint8), connectivity=4)
    outside = (~safe).sum()
    for k in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= max(9, 2e-5 * pixels)):
        if k == 0:
            continue
        x, y, w, h, area = stats[k]
        part = slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)
        region = labels[part] == k
        rim = dilated(region, 3) & edges[part]
        outer = rim & beside_safe[part]
        around = dilated(region, margin) & ~region & ~safe[part]
        light, *tint = np.median(offset[part][region], axis=0)
        tint, here = np.hypot(*tint), np.median(away[part][region])
        thin = outer.sum() / max(rim.sum(), 1)      # share of its rim that safe ground is behind
        mean = np.hypot(light, tint)
        is_even = here < mean + max(1.5, 0.25 * mean)
        step = np.percentile(away[part][around], 75) if around.any() else 0
        is_alike = here < max(limit, 0.15 * step)
        # an edge beside safe ground that is no part of anything solid: the object's own outline
        is_inside = thin > 0.5 and np.percentile(away[part][outer], 75) < max(8, 3 * here)
        if solid[part][region].mean() > 0.5:        # enclosed
            is_ground = is_alike and not is_inside and step > 5 and area < 0.5 * outside
        else:
            lit = np.median((calm - offset)[part][region][:, 0])
            is_shaded = -DARKEST * lit < light < 0.5 and (
                tint < max(2, 0.35 * -light) and thin < 0.3
                or tint < max(2, 0.15 * -light) and thin < 0.5)
            is_ground = is_alike and not is_inside or is_shaded
        (holes if is_ground and is_even else filled)[part] |= dilated(region, 1)
    return (solid | filled) & ~holes, holes
