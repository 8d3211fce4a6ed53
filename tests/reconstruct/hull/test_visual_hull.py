"""The visual hull on shapes in closed form (no MindSpore)."""
import numpy as np
from support.shapes import DISTANCE, FOCAL, ball, views_of

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
