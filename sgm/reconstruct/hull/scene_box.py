"""Where the object is in its views: the similarity to the normalised box, and whether poses and pictures agree.

Numpy and numba only.
"""
import logging
from dataclasses import replace

import numpy as np

from sgm.reconstruct.hull import flat_base, sdf_grid, visual_hull
from sgm.reconstruct.hull.camera_alignment import aligned
from sgm.reconstruct.posed_views import HALF, PosedViews, ShapeError

LOW = 96                    # pixels of the longer side, and cells of the grid, of the search
FILLED = 0.5                # of the box by the hull's longest side, below which an object is enlarged
BEYOND_DOUBT, POOR, HOPELESS = 0.975, 0.93, 0.5     # coverage of the masks by their hull: else looked into, warned, refused
ADVANTAGE = 0.03            # in coverage, by which the other sign of the azimuth must win to be believed
DEALS, TURNED_DEALS = 6, 3  # times that poses are dealt to the pictures at random, and of these with cameras turned
TELLING = 0.25              # of what poses dealt at random leave uncovered, the share that true ones cover at least
ROUND = 0.8                 # coverage by poses dealt at random, above which all sides look alike and outlines tell no order
FEWEST = 6                  # views, below which poses dealt at random are too often a turn or a mirror image of the true ones
log = logging.getLogger("sgm")


def framed(views, source="the views"):
    """`views` as read, moved into the box |x| <= HALF and checked -> Views.

    Views whose object already lies in the box and fills half of it stay where they are (ours always do). Otherwise the
    bounding box of their hull becomes |x| <= 0.5 along its longest side. Raises ShapeError: cameras that look at no
    common point, or all from one side; poses that contradict the silhouettes. Where turning the cameras a little makes
    them agree, they are turned, with a warning. `source` is what errors call the views.
    """
    small = views.resized(LOW)
    _check_cameras(small, source)
    centre, radius = _sphere(small, source)
    rough = small.moved(HALF / radius, centre)
    agreeing = _agreeing(rough, source)
    if agreeing is not rough:
        c2w = views.c2w.copy()
        c2w[:, :3, :3] = agreeing.c2w[:, :3, :3]
        views, rough = replace(views, c2w=c2w), agreeing
    sdf = visual_hull.closed(visual_hull.hull_sdf(rough, LOW, HALF), HALF)
    base = flat_base.base_height(sdf, HALF, rough)
    if base is not None:
        sdf = flat_base.cut_below(sdf, HALF, base)
    inside = np.argwhere(sdf < 0)
    axis = sdf_grid.vertices(LOW, HALF)
    low, high = (axis[corner] * radius / HALF + centre for corner in (inside.min(0), inside.max(0)))
    if np.abs([low, high]).max() <= HALF and (high - low).max() >= FILLED * 2 * HALF:
        framed_views = views
    else:
        scale = 1.0 / (high - low).max()
        framed_views = views.moved(scale, (low + high) / 2)
        log.info("%s: the object is %.3g long around (%.3g, %.3g, %.3g); worked on in a box of 1 and written back", source,
                 1 / scale, *(low + high) / 2)
    return framed_views


def coverage(sdf, views):
    """How much of the masks the silhouettes of a closed hull cover -> mean over views, in [0, 1].

    A hull never exceeds its masks, so what is missing is where views contradict each other.
    """
    seen, _ = sdf_grid.silhouettes(sdf, HALF, views)
    masks = views.mask > 0.5
    return float(np.mean([(s & m).sum() / max(m.sum(), 1) for s, m in zip(seen, masks)]))


def mirrored(views, centre):
    """The same pictures with the cameras' azimuths about the vertical through `centre` counted the other way."""
    c2w = views.c2w.copy()
    offset = c2w[:, :3, 3] - centre
    angle = -2 * np.arctan2(offset[:, 1], offset[:, 0])
    turn = np.zeros((len(views), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 1, 0], turn[:, 0, 1], turn[:, 2, 2] = np.sin(angle), -np.sin(angle), 1
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    c2w[:, :3, 3] = np.einsum("nij,nj->ni", turn, offset) + centre
    return PosedViews(views.rgb, views.mask, c2w, *views.intrinsics, views.scale, views.centre, views.files)


def _check_cameras(views, source):
    forward = -views.c2w[:, :3, 2]
    eyes = views.c2w[:, :3, 3]
    if np.ptp(eyes, axis=0).max() < 1e-6 * max(np.abs(eyes).max(), 1e-6):
        raise ShapeError(f"{source}: all cameras stand at one place; expected views from around the object, check the"
                         " transform_matrix entries")
    spread = np.degrees(np.arccos(np.clip((forward @ forward.T).min(), -1, 1)))
    if spread < 10:
        raise ShapeError(f"{source}: the cameras look the same way within {spread:.1f} degrees; expected views from around"
                         " the object, add some from other sides")


def _sphere(views, source):
    """A sphere that holds the object, from the masks' middles and extents -> centre (3,), radius."""
    directions, spreads = [], []
    for k, mask in enumerate(views.mask > 0.5):
        rows, columns = np.nonzero(mask)
        middle = np.array([(rows.min() + rows.max()) / 2]), np.array([(columns.min() + columns.max()) / 2])
        directions.append(views.rays(np.array([k]), *middle)[1][0])
        spreads.append(np.hypot(np.ptp(rows) + 2, np.ptp(columns) + 2) / 2)
    directions, eyes = np.array(directions, np.float64), views.c2w[:, :3, 3]
    centre = _nearest_point(eyes, directions)
    depth = np.einsum("ni,ni->n", centre - eyes, directions)
    if (depth <= 0).any():
        k = int(np.argmin(depth))
        raise ShapeError(f"{source}: view {k} looks away from the point that the others look at; expected OpenGL"
                         " camera-to-world matrices (looking along -z): check the poses' convention")
    return centre, 1.1 * float(np.max(np.array(spreads) * depth) / views.fl_x)


def _nearest_point(origins, directions):
    """The point (3,) nearest to rays (N, 3), unit directions, in the sense of least squares."""
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]    # projectors
    return np.linalg.solve(across.sum(0), np.einsum("nij,nj->i", across, origins))


def outvoted(views):
    """How many views may deny a place before it is outside the hull: none where all agree, else as few as it takes to
    cover the masks, at most a tenth of the views. views: in the box |x| <= HALF."""
    small = views.resized(LOW)
    most = len(views) // 10
    return next((count for count in range(most) if _hull_coverage(small, count) >= BEYOND_DOUBT), most)


def _hull_coverage(views, count=0):
    return coverage(visual_hull.closed(visual_hull.hull_sdf(views, LOW, HALF, count), HALF), views)


def _by_chance(views, given, turned):
    """Whether poses explain the pictures no better than the same poses dealt to them at random do: neither as they are
    given nor with cameras turned, and nor do a few views alone contradict the others, nor is the object round.

    given, turned: coverage of the masks before and after, by the better sign of the azimuth. -> the coverage that chance
    has without turning; None where poses tell something, or views are too few to say.
    """
    if len(views) < FEWEST or _hull_coverage(views, len(views) // 10) >= POOR:
        return None
    rng = np.random.RandomState(0)
    dealt = [replace(views, c2w=views.c2w[rng.permutation(len(views))]) for _ in range(DEALS)]
    chance = np.mean([_hull_coverage(deal) for deal in dealt])
    if chance > ROUND or given >= chance + TELLING * (1 - chance):
        return None
    luck = np.mean([_hull_coverage(aligned(deal)) for deal in dealt[:TURNED_DEALS]])
    return None if turned >= luck + TELLING * (1 - luck) else chance


def _agreeing(rough, source):
    """Small views in the box, as they are or with their cameras turned so that poses and pictures agree better.

    Raises ShapeError if they do not, or do with the azimuths counted the other way.
    """
    covered = _hull_coverage(rough)
    if covered >= BEYOND_DOUBT:
        return rough
    axis = _nearest_point(rough.c2w[:, :3, 3], -rough.c2w[:, :3, 2])    # what an orbit's cameras look at
    other = mirrored(rough, axis)
    mended, counted = rough, _hull_coverage(other)
    given = max(covered, counted)
    if given < POOR:                            # neither explains the pictures: are directions a little off?
        mended, counted = aligned(rough), max(counted, _hull_coverage(aligned(other)))
    best = _hull_coverage(mended)
    disagree = f"{source}: poses and silhouettes disagree, their common hull covers {covered:.0%} of the masks"
    chance = _by_chance(rough, given, max(best, counted)) if given < POOR else None
    if chance is not None:
        raise ShapeError(f"{disagree}, expected {POOR:.0%}; the same poses dealt at random reach {chance:.0%}: these poses,"
                         " or their order, are not the pictures': check each frame's file_path against its"
                         " transform_matrix, and the masks")
    if best < covered + ADVANTAGE:
        mended, best = rough, covered
    if counted >= best + ADVANTAGE:
        raise ShapeError(f"{disagree}; with the azimuths counted the other way it covers {counted:.0%}: sample again with the"
                         " other --azimuth-sign (1 or -1), or give views_to_mesh.py --azimuth-sign -1")
    if best < HOPELESS:
        raise ShapeError(f"{disagree}; the poses do not belong to these pictures: check them, or the masks")
    if mended is not rough:
        cosine = np.einsum("ni,ni->n", mended.c2w[:, :3, 2], rough.c2w[:, :3, 2])
        log.warning("%s; turned by up to %.1f degrees, the cameras agree on %.0f%%", disagree,
                    np.degrees(np.arccos(np.clip(cosine, -1, 1))).max(), 100 * best)
    elif best < POOR:
        log.warning("%s; what only some views show is lost", disagree)
    return mended
