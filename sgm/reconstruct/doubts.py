"""Doubts: whether a mesh explains the views that it was made of, and if not, what disagrees."""
from dataclasses import replace

import numpy as np

from sgm.common.errors import argument
from sgm.reconstruct.hull import elevation, scene_box, sdf_grid
from sgm.reconstruct.posed_views import HALF, ShapeError

# Below these the views are not explained: mean IoU of the mesh's silhouettes and the masks, and
# coverage of the masks by the hull. Genuine SV3D orbits with the right cameras have .93 and .84.
LEAST_IOU, LEAST_COVERAGE = 0.85, 0.75
ADVANTAGE = scene_box.ADVANTAGE     # gain in coverage that makes other cameras credible
FOCAL_LENGTHS = (0.5, 0.7, 1.4, 2.0)    # factors that are tried
SHUFFLES = 3                    # random orders that are tried
AT_BORDER = 0.05    # share of a picture's border that a mask may reach without the views' hull


def of_mesh(views, coverage, iou=None, told=None):
    """Return sentences on why a mesh does not explain its views; none if it does.

    views: in the box; coverage: of their masks by their hull; iou: mean of the mesh's silhouettes
    with the masks, or None where that is not known; told: the `elevation.Elevation` of the views,
    or None.
    """
    said = []
    if coverage < LEAST_COVERAGE:
        said.append(f"the views' common hull covers {coverage:.0%} of their masks, expected"
                    f" {LEAST_COVERAGE:.0%}")
    if iou is not None and iou < LEAST_IOU:
        said.append(f"the mesh's silhouettes have an IoU of {iou:.3f} with the views' masks,"
                    f" expected {LEAST_IOU}")
    return [*said, *suspects(views, told)] if said else []


def suspects(views, told=None):
    """Return sentences on what may be wrong with views that their hull does not explain.

    Each names a change of the cameras with which it explains them better, or masks that cannot be
    right; the last resort is the views that agree least. told: what the outlines told of the
    elevation before cameras were turned.
    """
    small = views.resized(elevation.SIDE)
    now = _coverage(small)
    said = []

    def try_out(name, coverage):
        if coverage >= now + ADVANTAGE:
            said.append(f"{name} the hull covers {coverage:.0%} of the masks rather than {now:.0%}")

    if told is not None and told.told is not None:
        try_out(f"elevation: at {told.told:.1f} degrees rather than {told.used:.1f}"
                f" ({argument('elevation')})", told.told_coverage)
    try_out("order, or sign of the azimuth: counted the other way"
            f" ({argument('azimuth_sign')} -1)",
            _coverage(scene_box.mirrored(small, scene_box.common_point(small.c2w))))
    if len(views) >= scene_box.MIN_VIEWS_FOR_TEST:
        rng = np.random.RandomState(0)
        shuffled = max(_coverage(replace(small, c2w=small.c2w[rng.permutation(len(views))]))
                       for _ in range(SHUFFLES))
        if shuffled >= now - ADVANTAGE / 3:
            said.append(f"order: shuffled at random the cameras cover {shuffled:.0%} of the masks,"
                        f" as given {now:.0%}; check which picture belongs to which camera")
    found = {factor: _coverage(replace(small, fl_x=factor * small.fl_x, fl_y=factor * small.fl_y))
             for factor in FOCAL_LENGTHS}
    factor = max(found, key=found.get)
    angle = np.degrees(2 * np.arctan(small.w / 2 / (factor * small.fl_x)))
    try_out(f"field of view: with about {angle:.0f} degrees", found[factor])
    uncut = _uncut(small)
    if uncut:
        said.append(f"cut-outs: in {len(uncut)} of {len(views)} views the object's mask reaches"
                    f" the picture's border ({_names(views, uncut)}) where by the other views"
                    " nothing is: a background that was not cut out")
    if not said:
        parts = scene_box.coverages(*elevation.hull(small))
        worst = np.argsort(parts)[:3]
        said.append(f"no change of all cameras explains the views better; least agree"
                    f" {_names(views, worst)}: look at their cut-outs and their cameras")
    return said


def _coverage(small):
    try:
        return elevation.coverage(small)
    except ShapeError:                  # cameras that look away from one another's object
        return 0.0


def _uncut(small):
    """Return indices of the views whose masks reach their picture's border without the hull.

    Where the hull reaches it too, the picture only cuts the object off.
    """
    try:
        sdf, boxed = elevation.hull(small)
        seen, _ = sdf_grid.silhouettes(sdf, HALF, boxed)
    except ShapeError:
        seen = np.zeros(small.mask.shape, bool)
    alone = (small.mask > 0.5) & ~seen
    return [k for k, mask in enumerate(alone)
            if np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean() > AT_BORDER]


def _names(views, indices):
    names = [views.files[k].name if views.files else str(k) for k in indices[:3]]
    return ", ".join(names) + (", ..." if len(indices) > 3 else "")
