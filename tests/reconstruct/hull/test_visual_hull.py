"""The visual hull on shapes in closed form (no MindSpore)."""
import numpy as np
import pytest
from support.shapes import DISTANCE, FOCAL, SIDE, ball, views_of

from sgm.reconstruct.hull import scene_box, sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF, PosedViews
from sgm.views.cameras import Orbit


def test_outline_distance_knows_fractions_of_a_pixel():
    mask = np.zeros((20, 20), np.float32)
    mask[:, 8:] = 1
    mask[:, 7] = 0.25                           # a vertical outline a quarter pixel into column 7
    found = visual_hull.outline_distance(mask)[10]
    np.testing.assert_allclose(found[7:13], [0.25, -0.5, -1.5, -2.5, -3.5, -4.5], atol=1e-6)
    np.testing.assert_allclose(found[4:7], [3.5, 2.5, 1.5], atol=1e-6)


def test_outline_distance_is_the_same_each_time():
    """Distances of OpenCV differ in their last bit from call to call."""
    disc = (np.hypot(*(np.mgrid[:64, :64] - 31.3)) < 20.4).astype(np.float32)
    found = [visual_hull.outline_distance(disc.copy()) for _ in range(50)]
    assert all(np.array_equal(again, found[0]) for again in found)
    squares = (np.abs(found[0].astype(np.float64)) + 0.5) ** 2
    np.testing.assert_allclose(squares, np.rint(squares), atol=1e-3)


def test_hull_of_a_ball():
    views = views_of(ball(0.4), Orbit.dynamic(3, 10))
    sdf = visual_hull.hull_sdf(views, 48, HALF)
    axis = sdf_grid.vertices(48, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt(x * x + y * y + z * z)
    pixel = DISTANCE / FOCAL
    assert (sdf[radius < 0.4 - pixel] < 0).all()
    waist = np.abs(z) < 0.15
    assert (sdf[waist & (radius > 0.4 + 2.5 * pixel)] > 0).all()
    center = sdf_grid.sample(sdf, HALF, np.zeros((1, 3)))[0]
    np.testing.assert_allclose(center, -0.4, atol=0.03)


def test_closed_grid_has_outside_border():
    sdf = np.full((17, 17, 17), -1, np.float32)
    found = visual_hull.closed(sdf, HALF)
    border = np.ones(found.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert (found[border] > 0).all() and (found[~border] < 0).all()
    np.testing.assert_allclose(found[8, 8, 8], -(HALF - HALF / 16), rtol=1e-5)


def test_contradicting_view_is_an_allowed_outlier():
    """Of 21 outlines of a ball one is a fifth of the picture aside: it alone cuts away what all others show."""
    views = views_of(ball(0.35), Orbit.static(10))
    assert scene_box.allowed_outliers(views) == 0
    wrong = views.mask.copy()
    wrong[3] = np.roll(wrong[3], 19, axis=1)
    spoilt = PosedViews(views.rgb, wrong, views.c2w, *views.intrinsics)
    assert scene_box.allowed_outliers(spoilt) == 1
    sizes = [(visual_hull.closed(visual_hull.hull_sdf(v, 32, HALF, count), HALF) < 0).sum() for v, count in
             ((views, 0), (spoilt, 0), (spoilt, 1))]
    assert sizes[1] < 0.8 * sizes[0] and sizes[0] <= sizes[2] < 1.15 * sizes[0]


def test_outline_distance_beside_what_is_not_known():
    mask, known = np.zeros((9, 12), np.float32), np.ones((9, 12), bool)
    mask[:, :4], known[:, 2:6] = 1, False
    found = visual_hull.outline_distance(np.where(known, mask, 0), known)[4]
    assert np.isnan(found[2:6]).all()
    np.testing.assert_allclose(found[[0, 1]], [-5.5, -4.5])         # the next surely empty pixel is the sixth
    np.testing.assert_allclose(found[6:9], [0.5, 1.5, 2.5])         # the object may reach as far as the fifth


@pytest.mark.filterwarnings("error")
def test_outline_distance_where_there_is_no_outline():
    """As far away as no pixel of the picture is from another, and no overflow on the way."""
    for level, expected in ((0, 11), (1, -11)):
        mask = np.full((9, 2), level, np.float32)
        for known in (None, np.ones((9, 2), bool)):
            np.testing.assert_array_equal(visual_hull.outline_distance(mask, known), expected)


def bounds(views, half=HALF, resolution=32):
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, resolution, half), half)
    points = visual_hull.surface_points(sdf, half)
    return np.concatenate([points.min(0), points.max(0)])


def without(views, hidden):
    """The views without what `hidden` (V, H, W) covers."""
    return views.ignoring(~hidden)


@pytest.fixture(scope="module")
def ball_seen():
    return views_of(ball(0.3), Orbit.from_lists(np.arange(1, 17) * 22.5 % 360, np.resize([-35.0, 0, 35], 16)))


def test_occluders_carve_nothing(ball_seen):
    """A stripe over a third of each picture, elsewhere in each, hides parts of a ball: its hull stays as it is."""
    views = ball_seen
    hidden = np.zeros(views.mask.shape, bool)
    for k in range(len(views)):
        start = 26 + 7 * k % 30
        hidden[(k, slice(start, start + 16)) if k % 2 else (k, slice(None), slice(start, start + 16))] = True
    empty = PosedViews(views.rgb, np.where(hidden, 0, views.mask), views.c2w, *views.intrinsics)
    np.testing.assert_allclose(bounds(without(views, hidden)), bounds(views), atol=0.012)
    assert (visual_hull.hull_sdf(empty, 24, HALF) > 0).all()        # what taking them for background does


def test_a_lens_circle_leaves_no_room_for_more(ball_seen):
    """Cut off by the circle in most views, the hull does not grow into what no or hardly any view knows."""
    views = ball_seen
    y, x = np.mgrid[:views.h, :views.w] + 0.5
    hidden = np.stack([np.hypot(x - 48, y - (32 if k % 2 else 48)) > 30 for k in range(len(views))])
    np.testing.assert_allclose(bounds(without(views, hidden)), bounds(views), atol=0.03)
    hidden = np.broadcast_to(np.hypot(x - 32, y - 48) > 30, views.mask.shape)
    np.testing.assert_allclose(bounds(without(views, hidden)), bounds(views), atol=0.06)


def ball_from(poses, radius=0.3):
    """The outlines of a ball about the origin, in closed form: rays that pass it within its radius."""
    masks = np.zeros((len(poses), SIDE, SIDE), np.float32)
    views = PosedViews(np.zeros((*masks.shape, 3), np.float32), masks, poses, FOCAL, FOCAL, SIDE / 2, SIDE / 2)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    for k in range(len(poses)):
        origins, directions = views.rays(np.full(len(rows), k), rows, columns)
        masks[k] = (np.linalg.norm(np.cross(origins, directions), axis=1) < radius).reshape(SIDE, SIDE)
    return views


@pytest.fixture(scope="module")
def near_and_far():
    """A ball in 16 views, of which every other one is so near that it fills the picture."""
    poses = Orbit.from_lists(np.arange(1, 17) * 22.5 % 360, np.resize([-35.0, -35, 0, 0, 35, 35], 16)).poses(2.0)
    poses[1::2, :3, 3] *= 0.7 / 2
    return ball_from(poses)


def test_sides_at_which_an_object_is_cut_off(near_and_far):
    cut_off = near_and_far.cut_off()
    assert cut_off[1::2].all() and not cut_off[::2].any()
    mask = np.zeros((1, 200, 100), np.float32)
    mask[0, 50:53, 0] = mask[0, 50, -1] = mask[0, -1, 10:12] = 1        # three of 200, one of 200, none, two of 100 pixels
    views = PosedViews(np.repeat(mask[..., None], 3, -1), mask, np.eye(4)[None], 100, 100, 50, 100)
    assert views.cut_off().tolist() == [[True, False, False, True]]


def test_nothing_is_carved_past_a_picture_that_cuts_the_object_off(near_and_far):
    """Pictures full of the object tell nothing: the hull is that of the others, not cut to where all pictures overlap."""
    far = near_and_far.subset(np.arange(0, 16, 2))
    np.testing.assert_allclose(bounds(near_and_far), bounds(far), atol=1e-4)
    inside = visual_hull.hull_sdf(near_and_far, 24, HALF) < 0
    np.testing.assert_array_equal(inside, visual_hull.hull_sdf(far, 24, HALF) < 0)
    assert inside.any() and not visual_hull.hull_sdf(near_and_far.subset([1, 3, 5]), 24, HALF)[0, 0, 0] < 0


def test_few_tellers_are_outvoted_by_fewer(near_and_far):
    """Half of 16 views tell of the corners of the box, and all of them say they are empty."""
    assert visual_hull.hull_sdf(near_and_far, 24, HALF, 8)[0, 0, 0] > 0


def test_unknown_parts_that_the_object_does_not_touch_are_background(ball_seen):
    views = ball_seen
    hidden = np.zeros(views.mask.shape, bool)
    hidden[:, :4] = hidden[:, :, -3:] = True
    sdf, plain = (visual_hull.hull_sdf(v, 32, HALF) for v in (without(views, hidden), views))
    inner = plain < 0.1
    np.testing.assert_allclose(sdf[inner], plain[inner], atol=1e-6)
    mask, known = np.zeros((20, 20), np.float32), np.ones((20, 20), bool)
    mask[5:10, 5:10], known[:, 12:14], known[8:9, 10:11] = 1, False, False
    told = visual_hull.without_islands(mask, known)
    assert told[:, 12:14].all() and not told[8, 10]
