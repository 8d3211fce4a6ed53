"""Small corrections of cameras: turns found by points, shifts by outlines."""
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from support.shapes import FOCAL, SIDE, ball, chair_views, off, shaken, views_of

from sgm.reconstruct.hull import camera_alignment, sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF
from sgm.views.cameras import Orbit


def test_turned_camera_shows_the_point_found():
    views = views_of(ball(0.3), Orbit.static(15, 3))
    camera, intrinsics = views.c2w[1], views.intrinsics
    place, found = np.array([40.0, 30.0]), np.array([52.0, 61.0])

    def ray(c2w, pixel):
        local = np.array([(pixel[0] - SIDE / 2) / FOCAL, (SIDE / 2 - pixel[1]) / FOCAL, -1])
        return c2w[:3, :3] @ local / np.linalg.norm(local)

    out = camera_alignment.turned(camera, intrinsics, place, found)
    np.testing.assert_allclose(ray(out, found), ray(camera, place), atol=1e-12)
    np.testing.assert_allclose(out[:3, :3] @ out[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(out[:, 3], camera[:, 3])
    least = np.degrees(np.arccos(ray(camera, place) @ ray(camera, found)))
    turn = np.degrees(np.arccos((np.trace(out[:3, :3] @ camera[:3, :3].T) - 1) / 2))
    assert turn == pytest.approx(least, rel=1e-9)


def test_outlines_are_shifted_onto_masks():
    disc = np.hypot(*(np.mgrid[:SIDE, :SIDE] - np.array([40, 50])[:, None, None])) < 15
    moved = np.roll(disc, (7, -4), (0, 1))
    np.testing.assert_allclose(camera_alignment.shift(disc, moved.astype(np.float32)), [-4, 7], atol=0.05)


def test_common_move_is_removed_from_shifts():
    views, move = views_of(ball(0.3), Orbit.dynamic(20, 5)), np.array([0.01, -0.02, 0.03])

    def pixels(views, point):
        local = np.einsum("nji,nj->ni", views.c2w[:, :3, :3], point - views.c2w[:, :3, 3])
        return FOCAL * local[:, :2] / -local[:, 2:] * (1, -1)

    common = pixels(views, move) - pixels(views, np.zeros(3))
    np.testing.assert_allclose(camera_alignment.without_common(common, views), 0, atol=0.1)       # of 5 pixels
    alone = np.zeros((len(views), 2))
    alone[7] = 4, 0
    left = camera_alignment.without_common(alone, views)
    assert left[7, 0] > 3.5 and np.abs(np.delete(left, 7, axis=0)).max() < 0.7


def test_cameras_do_not_turn_to_an_occluder(monkeypatch):
    """The right third of a ball is hidden in one view: its outline there is no reason to turn."""
    monkeypatch.setattr(camera_alignment, "ALLOWED_OUTLIERS", (0.2, 0.2))
    monkeypatch.setattr(camera_alignment, "CELLS", 32)
    views = views_of(ball(0.3), Orbit.static(0, 8))
    hidden = np.zeros(views.mask.shape, bool)
    hidden[2, :, 56:] = True
    empty = views.ignoring(~hidden)

    def turn(found):
        return np.degrees(np.arccos(np.clip((found.c2w[2, :3, 2] * views.c2w[2, :3, 2]).sum(), -1, 1)))

    kept, turned = turn(camera_alignment.aligned(empty)), turn(camera_alignment.aligned(empty.ignoring(None)))
    assert kept < 0.5 and turned > 0.75, (kept, turned)


def test_cameras_are_laid_onto_those_that_they_came_from():
    """A world that was turned by a degree, moved and scaled by a hundredth is brought back."""
    cameras = Orbit.dynamic(2, 20).poses(2.0)
    points = np.random.RandomState(0).uniform(-0.4, 0.4, (50, 3))
    turn = Rotation.from_rotvec(np.radians([0.6, -0.5, 0.6])).as_matrix()
    other = cameras.copy()
    other[:, :3, :3] = turn @ cameras[:, :3, :3]
    other[:, :3, 3] = 1.01 * cameras[:, :3, 3] @ turn.T + (0.01, -0.02, 0.005)
    np.testing.assert_allclose(camera_alignment.laid_on(other, cameras, points), cameras, atol=2e-3)


@pytest.mark.parametrize("nearer", [1.0, 0.65], ids=["whole", "cut off"])
def test_cameras_are_fitted_to_a_solid(nearer):
    """A picture that cuts the object off has no outline at its border to be drawn to."""
    views = chair_views(25, 6, 96, nearer=nearer)
    sdf = visual_hull.closed(visual_hull.hull_sdf(chair_views(25, 24, 96), 64, HALF), HALF)
    wrong = shaken(views, 1.0, 0.02)

    def iou(views):
        seen, masks = sdf_grid.silhouettes(sdf, HALF, views)[0], views.mask > 0.5
        return ((seen & masks).sum((1, 2)) / (seen | masks).sum((1, 2))).mean()

    assert iou(wrong) < 0.93 and iou(camera_alignment.fitted(wrong, sdf)) > 0.975
    assert off(camera_alignment.fitted(views, sdf), views)[0].mean() < 0.35


def test_a_given_camera_holds_what_no_outline_tells():
    """A ball's outline tells no turn about its middle: of a turned camera only its sideways shift is made good."""
    views = views_of(ball(0.3), Orbit.static(0, 1))
    sdf = visual_hull.closed(np.linalg.norm(np.stack(np.meshgrid(*[sdf_grid.vertices(48, HALF)] * 3, indexing="ij")), axis=0)
                             - np.float32(0.3), HALF)
    turn = Rotation.from_rotvec(np.radians([0, 0, 1])).as_matrix()
    wrong = replace(views, c2w=views.c2w.copy())
    wrong.c2w[:, :3, :3] = turn @ views.c2w[:, :3, :3]
    degrees, away = off(camera_alignment.fitted(wrong, sdf), wrong)
    # Turn and move that shift the middle by one pixel cost the same: each does half, 2 tan(0.5 degrees) = .0175
    assert degrees[0] == pytest.approx(0.5, abs=0.06) and away[0] == pytest.approx(0.0175, abs=0.002)


def test_a_camera_that_does_not_see_the_solid_stays():
    views = chair_views(25, 12, 48)
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, 32, HALF), HALF)
    c2w = views.c2w.copy()
    c2w[3, :3, :3] = c2w[3, :3, :3] @ np.diag([-1.0, 1, -1])        # looks the other way
    found = camera_alignment.fitted(replace(views, c2w=c2w), sdf)
    assert np.array_equal(found.c2w[3], c2w[3]) and np.isfinite(found.c2w).all()
