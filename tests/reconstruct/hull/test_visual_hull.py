"""Grids, the visual hull, the prior of a flat base and the framing of an object, on closed forms (no MindSpore)."""
import cv2
import numpy as np
import pytest
import trimesh

from sgm.reconstruct.hull import camera_alignment, flat_base, scene_box, sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF, PosedViews, ShapeError
from sgm.views.cameras import Orbit

SIDE, FOCAL, DISTANCE, REACH = 96, 158.0, 2.0, 0.6


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Where the object is, is sought on a grid of an eighth of the usual cells."""
    monkeypatch.setattr(scene_box, "LOW", 48)


def views_of(signed_distance, orbit, center=(0.0, 0.0, 0.0), size=1.0):
    """Views of a shape, given as a function of points in its own frame, traced densely along rays; gray on nothing.

    The shape lies within REACH of its center, so what is farther away need not be looked at.
    """
    center = np.asarray(center, float)
    poses = orbit.poses(DISTANCE)
    poses[:, :3, 3] = poses[:, :3, 3] * size + center
    empty = PosedViews(np.zeros((len(poses), SIDE, SIDE, 3), np.float32), np.zeros((len(poses), SIDE, SIDE), np.float32), poses,
                  FOCAL, FOCAL, SIDE / 2, SIDE / 2)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    t = np.linspace(DISTANCE - 1, DISTANCE + 1, 240)
    t = t[np.abs(t - DISTANCE) < REACH, None, None]
    mask = np.zeros((len(poses), SIDE, SIDE), np.float32)
    for k in range(len(poses)):
        origins, directions = empty.rays(np.full(len(rows), k), rows, columns)
        origins = (origins - center) / size
        near = np.linalg.norm(np.cross(origins, directions), axis=-1) < REACH
        points = origins[near] + t * directions[near]
        mask[k, rows[near], columns[near]] = (signed_distance(points) < 0).any(0)
    return PosedViews(0.5 * np.repeat(mask[..., None], 3, axis=-1), mask, poses, FOCAL, FOCAL, SIDE / 2, SIDE / 2,
                 files=tuple(f"{k:03d}.png" for k in range(len(mask))))


def ball(radius):
    return lambda p: np.linalg.norm(p, axis=-1) - radius


def cylinder(p):
    """Upright, radius 0.3, from z = -0.4 to 0.4, with a knob at +x so that azimuths have a sign with that at +y."""
    side = np.maximum(np.hypot(p[..., 0], p[..., 1]) - 0.3, np.abs(p[..., 2]) - 0.4)
    knobs = [np.linalg.norm(p - at, axis=-1) - r for at, r in (((0.4, 0, 0.2), 0.12), ((0, 0.38, -0.15), 0.08))]
    return np.minimum(side, np.minimum(*knobs))


def oval(p):
    """Upright, an ellipse of radii 0.42 and 0.22 from z = -0.4 to 0.4, with a knob at +y."""
    side = np.maximum(0.22 * (np.hypot(p[..., 0] / 0.42, p[..., 1] / 0.22) - 1), np.abs(p[..., 2]) - 0.4)
    return np.minimum(side, np.linalg.norm(p - (0, 0.3, 0.2), axis=-1) - 0.1)


def test_sampling_and_gradient_of_a_plane_are_exact():
    axis = sdf_grid.vertices(8, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    plane = (2 * x - y + 0.5 * z + 0.1).astype(np.float32)
    points = np.random.RandomState(0).uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
    expected = points.astype(np.float64) @ [2, -1, 0.5] + 0.1
    np.testing.assert_allclose(sdf_grid.sample(plane, HALF, points), expected, atol=1e-6)
    inner = points[np.abs(points).max(1) < 0.45]
    np.testing.assert_allclose(sdf_grid.gradient(plane, HALF, inner), np.tile([2, -1, 0.5], (len(inner), 1)), atol=1e-5)


def test_tracing_a_ball_in_closed_form():
    axis = sdf_grid.vertices(64, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    sphere = (np.sqrt(x * x + y * y + z * z) - 0.4).astype(np.float32)
    offset = np.linspace(-0.5, 0.5, 41, dtype=np.float32)
    origins = np.stack([np.full(41, 2, np.float32), offset, np.zeros(41, np.float32)], axis=-1)
    found = sdf_grid.trace(sphere, HALF, origins, np.tile(np.float32([-1, 0, 0]), (41, 1)))
    hit = np.abs(offset) < 0.4
    assert np.isfinite(found[np.abs(offset) < 0.39]).all() and np.isinf(found[np.abs(offset) > 0.41]).all()
    exact = 2 - np.sqrt(0.16 - offset[hit] ** 2)
    inner = np.abs(offset[hit]) < 0.35
    np.testing.assert_allclose(found[hit][inner], exact[inner], atol=2e-3)


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


def test_base_of_a_cylinder_and_of_a_ball():
    views = views_of(cylinder, Orbit.static(15))
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, 96, HALF), HALF)
    depth = sdf_grid.vertices(96, HALF)[np.argwhere(sdf < 0)[:, 2].min()]
    assert depth < -0.44                        # the cone below a camera at 15 degrees
    height = flat_base.base_height(sdf, HALF, views)
    assert abs(height + 0.4) < 0.02
    assert flat_base.cut_below(sdf, HALF, height)[..., sdf_grid.vertices(96, HALF) < height].min() > 0
    around = views_of(ball(0.35), Orbit.sine(70, 0))
    sdf = visual_hull.closed(visual_hull.hull_sdf(around, 64, HALF), HALF)
    height = flat_base.base_height(sdf, HALF, around)
    assert height is None or height < -0.33


def test_dented_underside_is_flattened_to_the_rim():
    """A box whose underside bulges inwards: its hidden middle joins the rim, the walls and the top stay.

    Where the hull, here a cone with its tip below, is higher than the rim, the middle stops at the hull.
    """
    box = trimesh.creation.box((0.6, 0.6, 0.8)).subdivide().subdivide().subdivide()
    vertices, faces = np.array(box.vertices, np.float32), np.array(box.faces)
    inside = (vertices[:, 2] < -0.39) & (np.abs(vertices[:, :2]).max(1) < 0.29)
    vertices[inside, 2] += 0.015
    axis = sdf_grid.vertices(64, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    flat = flat_base.flattened(vertices, faces, -0.39, (np.abs(z) - 0.5).astype(np.float32), HALF)
    np.testing.assert_allclose(flat[inside, 2], -0.4, atol=1e-6)
    np.testing.assert_array_equal(flat[~inside], vertices[~inside])
    cone = (np.hypot(x, y) - (z + 0.55)).astype(np.float32)     # radius .15 at the rim
    flat = flat_base.flattened(vertices, faces, -0.39, cone, HALF)
    radius = np.hypot(*vertices[inside, :2].T)
    assert (flat[inside, 2][radius < 0.13] < -0.3999).all()
    assert (flat[inside, 2] == vertices[inside, 2])[radius > 0.17].all()
    np.testing.assert_array_equal(flat_base.flattened(vertices, faces, -0.6, cone, HALF), vertices)


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


def rotation(axis, degrees):
    axis, angle = np.asarray(axis, float) / np.linalg.norm(axis), np.radians(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


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
