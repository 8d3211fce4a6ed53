"""Scene box: finds the object in its views and checks that poses and pictures agree.

Returns the views in the normalized box. Numpy and numba only.
"""
import logging
from dataclasses import replace

import cv2
import numpy as np

from sgm.common.errors import argument
from sgm.reconstruct.hull import flat_base, sdf_grid, visual_hull
from sgm.reconstruct.hull.camera_alignment import aligned
from sgm.reconstruct.posed_views import HALF, MIN_VIEWS, ShapeError

LOW = 96                    # pixels of the longer side, and cells of the grid, of the search
FILLED = 0.5  # an object is enlarged if its longest side is below this share of the box
# Coverage of the masks by their hull: above the first all is well, below the second poses are
# examined and a warning given, below the third they are refused.
BEYOND_DOUBT, POOR, HOPELESS = 0.975, 0.93, 0.5
ADVANTAGE = 0.03            # gain in coverage that makes the other sign of the azimuth credible
# Permutation test: random permutations of the poses, and how many of these are also aligned.
PERMUTATIONS, ALIGNED_PERMUTATIONS = 6, 3
# True poses cover at least this share of what permuted ones leave uncovered.
MIN_GAIN = 0.25
# Above this coverage by permuted poses all sides of an object look alike: no order can be seen.
MAX_CHANCE_COVERAGE = 0.8
# Masks widened by this many of LOW pixels show whether only an object's thinness, less than a cell
# of the grid, hides it from its hull.
WIDER = 2
MOSTLY = 0.5                # share of the masks that must be thicker to judge by these parts alone
# With fewer views a permutation is too often a turn or a mirror image of the true poses.
MIN_VIEWS_FOR_TEST = 6
GROWN = 2.0                 # factor for a sphere of an object that all pictures cut off
ROOM = 1.25                 # of a sphere's radius to the half length of what lies in it
# Root mean square of the distances of cameras' axes from one point, by the cameras' mean distance,
# from which their poses were measured
MEET = 0.005
log = logging.getLogger("sgm")


def framed(views, source="the views"):
    """Return `views` as read, moved into the box |x| <= HALF and checked.

    Views whose object already lies in the box and fills half of it stay where they are (ours always
    do). Otherwise the bounding box of their hull becomes |x| <= 0.5 along its longest side. Where
    turning the cameras a little makes them agree, they are turned, with a warning. `source` is what
    errors call the views. Raises ShapeError for cameras that look at no common point, or all from
    one side, for poses that contradict the silhouettes, and for objects too thin for the grid.
    """
    small = views.resized(LOW)
    check_cameras(small, source)
    cut_off = small.cut_off().any(axis=1).sum()
    if cut_off > len(small) / 2:        # whatever is said next may be a consequence
        log.warning("%s: in %d of %d views the object's mask reaches the picture's border: a"
                    " background that was not cut out, or an object that the pictures cut off",
                    source, cut_off, len(small))
    center, radius = sphere(small, source)
    by_hand = is_measured(small.c2w)
    if by_hand or small.cut_off().any():
        center, radius = narrowed(small, center, radius)
    rough = small.moved(HALF / radius, center)
    agreeing = _agreeing(rough, source)
    if agreeing is not rough:
        c2w = views.c2w.copy()
        c2w[:, :3, :3] = agreeing.c2w[:, :3, :3]
        views, rough = replace(views, c2w=c2w), agreeing
    # One wrong mask of a capture must not shrink the box.
    outvoted = allowed_outliers(rough) if by_hand else 0
    sdf = visual_hull.closed(visual_hull.hull_sdf(rough, LOW, HALF, outvoted), HALF)
    base = flat_base.base_height(sdf, HALF, rough)
    if base is not None:
        sdf = flat_base.cut_below(sdf, HALF, base)
    inside = np.argwhere(sdf < 0)
    if not len(inside):
        raise too_thin(source, 0)
    axis = sdf_grid.vertices(LOW, HALF)
    low, high = (axis[corner] * radius / HALF + center for corner in (inside.min(0), inside.max(0)))
    if np.abs([low, high]).max() <= HALF and (high - low).max() >= FILLED * 2 * HALF:
        framed_views = views
    else:
        scale = 1.0 / (high - low).max()
        framed_views = views.moved(scale, (low + high) / 2)
        log.info(
            "%s: the object is %.3g long around (%.3g, %.3g, %.3g); worked on in a box of 1 and"
            " written back",
            source,
            1 / scale,
            *(low + high) / 2,
        )
    return framed_views


def coverage(sdf, views):
    """Return how much of the masks the silhouettes of a closed hull cover, in [0, 1].

    The mean over views. A hull never exceeds its masks, so what is missing is where views
    contradict each other.
    """
    return float(np.mean(coverages(sdf, views)))


def coverages(sdf, views):
    """Return the `coverage` of every view, a list."""
    seen, _ = sdf_grid.silhouettes(sdf, HALF, views)    # masks are empty where nothing is known
    masks = views.mask > 0.5
    return [(s & m).sum() / max(m.sum(), 1) for s, m in zip(seen, masks)]


def too_thin(source, kept, remedy=""):
    """Return the ShapeError for an object of which a hull of so coarse cells keeps too little.

    kept: share of the masks that it keeps.
    """
    return ShapeError(
        f"{source}: the object is too thin: its hull keeps {kept:.0%} of the masks, because wires"
        " and plates of less than a cell of the grid (1 to 3 % of the object's length) are lost;"
        f" expected a thicker object; {remedy}give views of a part of it from nearer"
    )


def mirrored(views, center):
    """Return the same pictures with the cameras' azimuths counted the other way.

    Azimuths are about the vertical through `center`.
    """
    c2w = views.c2w.copy()
    offset = c2w[:, :3, 3] - center
    angle = -2 * np.arctan2(offset[:, 1], offset[:, 0])
    turn = np.zeros((len(views), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 1, 0], turn[:, 0, 1], turn[:, 2, 2] = np.sin(angle), -np.sin(angle), 1
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    c2w[:, :3, 3] = np.einsum("nij,nj->ni", turn, offset) + center
    return replace(views, c2w=c2w)


def check_cameras(views, source):
    """Raise ShapeError for cameras at one place, or that all look the same way."""
    forward = -views.c2w[:, :3, 2]
    eyes = views.c2w[:, :3, 3]
    if np.ptp(eyes, axis=0).max() < 1e-6 * max(np.abs(eyes).max(), 1e-6):
        raise ShapeError(
            f"{source}: all cameras stand at one place; expected views from around the object,"
            " check the transform_matrix entries"
        )
    spread = np.degrees(np.arccos(np.clip((forward @ forward.T).min(), -1, 1)))
    if spread < 10:
        raise ShapeError(
            f"{source}: the cameras look the same way within {spread:.1f} degrees; expected views"
            " from around the object, add some from other sides"
        )


def sphere(views, source):
    """Return center (3,) and radius of a sphere that holds the object.

    It is found from the masks' middles and extents, of the pictures that do not cut the object off.
    If there are too few of these it is found from all, and made larger.
    """
    cut_off = views.cut_off().any(axis=1)
    grow = 1.0
    if (~cut_off).sum() >= MIN_VIEWS:
        views = views.subset(np.flatnonzero(~cut_off))
    elif cut_off.any():
        grow = GROWN
    directions, spreads = [], []
    for k, mask in enumerate(_drawn(views.mask)):
        rows, columns = np.nonzero(mask)
        middle = (
            np.array([(rows.min() + rows.max()) / 2]),
            np.array([(columns.min() + columns.max()) / 2]),
        )
        directions.append(views.rays(np.array([k]), *middle)[1][0])
        spreads.append(np.hypot(np.ptp(rows) + 2, np.ptp(columns) + 2) / 2)
    directions, eyes = np.array(directions, np.float64), views.c2w[:, :3, 3]
    center = _nearest_point(eyes, directions)
    depth = np.einsum("ni,ni->n", center - eyes, directions)
    if (depth <= 0).any():
        k = int(np.argmin(depth))
        raise ShapeError(
            f"{source}: view {k} looks away from the point that the others look at; expected OpenGL"
            " camera-to-world matrices (looking along -z): check the poses' convention"
        )
    return center, grow * 1.1 * float(np.max(np.array(spreads) * depth) / views.fl_x)


def narrowed(views, center, radius):
    """Return center and radius of a smaller sphere, where the hull needs only a part of a larger.

    A mask that is wrong, or a view from afar, makes `sphere` so large that cells of the grid are
    too coarse to compare outlines. A tenth of the views may contradict the hull.
    """
    rough = views.moved(HALF / radius, center)
    sdf = visual_hull.closed(visual_hull.hull_sdf(rough, LOW, HALF, len(views) // 10), HALF)
    if not (sdf < 0).any():
        return center, radius
    inside = np.argwhere(sdf_grid.one_piece(sdf) < 0)
    axis = sdf_grid.vertices(LOW, HALF) * radius / HALF
    low, high = axis[inside.min(0)] + center, axis[inside.max(0)] + center
    needed = ROOM * float((high - low).max()) / 2
    return ((low + high) / 2, needed) if needed < radius else (center, radius)


def is_measured(c2w):
    """Return whether cameras (V, 4, 4) were measured, as structure from motion does.

    The axes of cameras that were computed, those of an orbit, meet in one point.
    """
    point = common_point(c2w)
    away = point - c2w[:, :3, 3]
    across = np.linalg.norm(np.cross(away, c2w[:, :3, 2]), axis=1)
    return bool(np.sqrt(np.square(across).mean()) > MEET * np.linalg.norm(away, axis=1).mean())


def common_point(c2w):
    """Return the point (3,) nearest to what cameras (V, 4, 4) look at along their axes."""
    return _nearest_point(c2w[:, :3, 3], -c2w[:, :3, 2])


def _nearest_point(origins, directions):
    """Return the point (3,) nearest to rays (N, 3), unit directions, in the sense of least squares.
    """
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]    # projectors
    return np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, origins))


def allowed_outliers(views):
    """Return the number of views allowed to contradict a voxel (robust hull).

    None where all agree, or would if they had only their thick parts: a hull loses what is thinner
    than a cell even if all views agree on it, and a voxel that some may contradict makes all parts
    thicker. Else as few as it takes to cover the masks, at most a tenth of the views. views: in the
    box |x| <= HALF.
    """
    small = views.resized(LOW)
    hull = visual_hull.closed(visual_hull.hull_sdf(small, LOW, HALF), HALF)
    thick = _thick_parts(small)
    if coverage(hull, small) >= BEYOND_DOUBT or thick and coverage(hull, thick) >= BEYOND_DOUBT:
        return 0
    most = len(views) // 10
    return next(
        (count for count in range(1, most) if _hull_coverage(small, count) >= BEYOND_DOUBT), most
    )


def _thick_parts(views):
    """Return the views that show parts which are not thin, their masks of these parts alone.

    None if these parts are less than MOSTLY of the masks.
    """
    size = np.ones((2 * WIDER + 1,) * 2, np.uint8)
    masks = (views.mask > 0.5).astype(np.uint8)
    thick = np.stack([cv2.morphologyEx(mask, cv2.MORPH_OPEN, size) for mask in masks])
    if thick.sum() < max(MOSTLY * masks.sum(), 1):
        return None
    shown = np.flatnonzero(thick.any((1, 2)))
    return replace(views, mask=thick.astype(np.float32)).subset(shown)


def _hull_coverage(views, count=0):
    return coverage(visual_hull.closed(visual_hull.hull_sdf(views, LOW, HALF, count), HALF), views)


def _drawn(masks):
    """Return where masks show something, bool: above a half, or of their most if that is less.

    A wire thinner than a pixel of the reduced picture is a half nowhere.
    """
    return masks > np.minimum(0.5, masks.max((1, 2), keepdims=True) / 2)


def _is_thin(views):
    """Return whether the hull of widened masks covers views whose own hull does not."""
    drawn = _drawn(views.mask)
    size = np.ones((2 * WIDER + 1,) * 2, np.uint8)
    wide = np.stack([cv2.dilate((mask > 0).astype(np.uint8), size) for mask in views.mask])
    hull = visual_hull.hull_sdf(replace(views, mask=wide.astype(np.float32)), LOW, HALF)
    return coverage(visual_hull.closed(hull, HALF), replace(views, mask=drawn)) >= POOR


def _permutation_test(views, given, turned):
    """Test whether the given poses fit the silhouettes better than shuffled ones.

    Return None if they do, or if it cannot be said: also with cameras turned, for a few views alone
    that contradict the others, for a round object, for too few views. Return the coverage that
    shuffled poses reach if the given ones are no better.
    given, turned: coverage of the masks before and after turning cameras, by the better sign of the
    azimuth.
    """
    if len(views) < MIN_VIEWS_FOR_TEST or _hull_coverage(views, len(views) // 10) >= POOR:
        return None
    rng = np.random.RandomState(0)
    permuted = [
        replace(views, c2w=views.c2w[rng.permutation(len(views))]) for _ in range(PERMUTATIONS)
    ]
    chance = np.mean([_hull_coverage(views) for views in permuted])
    if chance > MAX_CHANCE_COVERAGE or given >= chance + MIN_GAIN * (1 - chance):
        return None
    luck = np.mean([_hull_coverage(aligned(views)) for views in permuted[:ALIGNED_PERMUTATIONS]])
    return None if turned >= luck + MIN_GAIN * (1 - luck) else chance


def _agreeing(rough, source):
    """Return small views in the box, with cameras turned if poses and pictures then agree better.

    Raises ShapeError if they do not agree, do with the azimuths counted the other way, or if the
    object is too thin to tell.
    """
    covered = _hull_coverage(rough)
    if covered >= BEYOND_DOUBT:
        return rough
    if covered < HOPELESS and _is_thin(rough):
        raise too_thin(source, covered)
    # Would the other sign of the azimuth, or cameras turned a little, explain the pictures better?
    axis = common_point(rough.c2w)
    other = mirrored(rough, axis)
    corrected, counted = rough, _hull_coverage(other)
    given = max(covered, counted)
    if given < POOR:  # neither explains the pictures: are directions a little off?
        corrected, counted = aligned(rough), max(counted, _hull_coverage(aligned(other)))
    best = _hull_coverage(corrected)
    disagree = (
        f"{source}: poses and silhouettes disagree, their common hull covers {covered:.0%} of the"
        " masks"
    )
    # Refuse poses that are not those of the pictures, or that are counted the other way.
    chance = _permutation_test(rough, given, max(best, counted)) if given < POOR else None
    if chance is not None:
        raise ShapeError(
            f"{disagree}, expected {POOR:.0%}; the same poses in random order reach {chance:.0%}:"
            " these poses, or their order, are not the pictures': check each frame's file_path"
            " against its transform_matrix, and the masks"
        )
    if best < covered + ADVANTAGE:
        corrected, best = rough, covered
    if counted >= best + ADVANTAGE:
        raise ShapeError(
            f"{disagree}; with the azimuths counted the other way it covers {counted:.0%}: sample"
            " again with the other azimuth sign (1 or -1), or give views_to_mesh"
            f" {argument('azimuth_sign')} -1"
        )
    if best < HOPELESS:
        raise ShapeError(
            f"{disagree}; the poses do not belong to these pictures: check them, or the masks"
        )
    if corrected is not rough:
        cosine = np.einsum("ni,ni->n", corrected.c2w[:, :3, 2], rough.c2w[:, :3, 2])
        log.warning("%s; turned by up to %.1f degrees, the cameras agree on %.0f%%", disagree,
                    np.degrees(np.arccos(np.clip(cosine, -1, 1))).max(), 100 * best)
    elif best < POOR:
        log.warning("%s; what only some views show is lost", disagree)
    return corrected
