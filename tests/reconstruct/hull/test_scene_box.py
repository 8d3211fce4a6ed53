"""Framing of an object; cameras that are refused or corrected."""
import cv2
import numpy as np
import pytest
from support.shapes import ball, cylinder, oval, views_of

from sgm.reconstruct.hull import scene_box, sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF, PosedViews, ShapeError
from sgm.views.cameras import Orbit


@pytest.mark.parametrize("scale, center", [(1.0, (0, 0, 0)), (37.0, (100.0, -20.0, 3.0)), (0.01, (0.5, 0.5, 0.5))])
def test_objects_are_framed_and_placed_back(scale, center):
    views = views_of(cylinder, Orbit.static(15), center, scale)
    framed = scene_box.framed(views)
    if scale == 1.0:
        assert framed is views
    sdf = visual_hull.closed(visual_hull.hull_sdf(framed, 48, HALF), HALF)
    inside = np.argwhere(sdf < 0)
    extent = np.ptp(sdf_grid.vertices(48, HALF)[inside], axis=0)
    assert 0.6 < extent.max() <= 1.1
    eye = framed.c2w[0, :3, 3] / framed.scale + framed.center
    np.testing.assert_allclose(eye, views.c2w[0, :3, 3], rtol=1e-6, atol=1e-6 * scale)


def test_mirrored_poses_are_refused_with_the_remedy():
    views = views_of(cylinder, Orbit.static(15))
    wrong = scene_box.mirrored(views, np.zeros(3))
    with pytest.raises(ShapeError, match="azimuth-sign"):
        scene_box.framed(wrong, "there")
    back = scene_box.mirrored(wrong, np.zeros(3))
    np.testing.assert_allclose(back.c2w, views.c2w, atol=1e-12)


def test_cameras_that_cannot_be_used_are_one_line():
    views = views_of(ball(0.4), Orbit.static(10, 12))
    same = views.subset([0, 0, 0])
    with pytest.raises(ShapeError, match="one place"):
        scene_box.framed(same, "there")
    c2w = views.c2w.copy()
    c2w[:, :3, 2] *= -1
    c2w[:, :3, 0] *= -1                         # looking outwards: OpenCV matrices read as OpenGL
    with pytest.raises(ShapeError, match="looks away"):
        scene_box.framed(PosedViews(views.rgb, views.mask, c2w, *views.intrinsics), "there")
    moved = views.c2w.copy()
    moved[::2, :3, 3] += [0, 0, 1.5]
    with pytest.raises(ShapeError):
        scene_box.framed(PosedViews(views.rgb, views.mask, moved, *views.intrinsics), "there")


def rotation(axis, degrees):
    axis, angle = np.asarray(axis, float) / np.linalg.norm(axis), np.radians(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("orbit, seed", [(Orbit.static(15, 12), 0), (Orbit.dynamic(4, 10, 12), 1)], ids=["static", "dynamic"])
def test_permuted_poses_are_refused_with_the_remedy(orbit, seed):
    """What the wrong order leaves of it is well above HOPELESS."""
    views = views_of(oval, orbit)
    wrong = PosedViews(views.rgb, views.mask, views.c2w[np.random.RandomState(seed).permutation(len(views))], *views.intrinsics)
    with pytest.raises(ShapeError, match="there: .* expected 93%; .* in random order reach ..%: .*file_path") as found:
        scene_box.framed(wrong, "there")
    assert "azimuth-sign" not in str(found.value)


@pytest.mark.parametrize("shape, most", [(oval, 3), (cylinder, 6)])
def test_bad_masks_give_a_warning_only(caplog, shape, most):
    """Outlines eaten away by up to `most` pixels, in each view by another number; of a round object too, though order tells
    nothing there."""
    views = views_of(shape, Orbit.static(15))
    eaten = [cv2.erode(mask, np.ones((2 * k + 1, 2 * k + 1))) for k, mask in
             zip(np.random.RandomState(0).randint(0, most + 1, len(views)), views.mask)]
    with caplog.at_level("WARNING", "sgm"):
        scene_box.framed(PosedViews(views.rgb, np.array(eaten), views.c2w, *views.intrinsics), "there")
    assert "disagree" in caplog.text


def test_directions_two_degrees_off_are_corrected(caplog):
    views = views_of(cylinder, Orbit.static(15, 12))
    rng, c2w = np.random.default_rng(0), views.c2w.copy()
    for k in range(len(c2w)):
        c2w[k, :3, :3] = rotation(c2w[k, :3, :2] @ rng.standard_normal(2), 2) @ c2w[k, :3, :3]     # not about its own axis
    noisy = PosedViews(views.rgb, views.mask, c2w, *views.intrinsics)
    with caplog.at_level("WARNING", "sgm"):
        corrected = scene_box.framed(noisy, "there")
    assert "turned by up to" in caplog.text and "there" in caplog.text

    def off(found):
        return np.degrees(np.arccos(np.clip(np.einsum("ni,ni->n", found.c2w[:, :3, 2], views.c2w[:, :3, 2]), -1, 1)))

    assert off(noisy).mean() == pytest.approx(2, abs=1e-3) and off(corrected).mean() < 1
    np.testing.assert_array_equal(corrected.c2w[:, :3, 3], noisy.c2w[:, :3, 3])
