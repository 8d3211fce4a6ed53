"""Small corrections of cameras: turns found by points, shifts by outlines."""
import numpy as np
import pytest
from support.shapes import FOCAL, SIDE, ball, views_of

from sgm.reconstruct.hull import camera_alignment
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
