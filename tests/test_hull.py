"""Grids, the visual hull, the prior of a flat base and the framing of an object, on closed forms (no MindSpore)."""
import cv2
import numpy as np
import pytest
import trimesh

from sgm.cameras import Orbit
from sgm.shape import alignment, framing, grid, hull
from sgm.shape.views import HALF, ShapeError, Views

SIDE, FOCAL, DISTANCE, REACH = 96, 158.0, 2.0, 0.6


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Where the object is, is sought on a grid of an eighth of the usual cells."""
    monkeypatch.setattr(framing, "LOW", 48)


def views_of(signed_distance, orbit, centre=(0.0, 0.0, 0.0), size=1.0):
    """Views of a shape, given as a function of points in its own frame, traced densely along rays; grey on nothing.

    The shape lies within REACH of its centre, so what is farther away need not be looked at.
    """
    centre = np.asarray(centre, float)
    poses = orbit.poses(DISTANCE)
    poses[:, :3, 3] = poses[:, :3, 3] * size + centre
    empty = Views(np.zeros((len(poses), SIDE, SIDE, 3), np.float32), np.zeros((len(poses), SIDE, SIDE), np.float32), poses,
                  FOCAL, FOCAL, SIDE / 2, SIDE / 2)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    t = np.linspace(DISTANCE - 1, DISTANCE + 1, 240)
    t = t[np.abs(t - DISTANCE) < REACH, None, None]
    mask = np.zeros((len(poses), SIDE, SIDE), np.float32)
    for k in range(len(poses)):
        origins, directions = empty.rays(np.full(len(rows), k), rows, columns)
        origins = (origins - centre) / size
        near = np.linalg.norm(np.cross(origins, directions), axis=-1) < REACH
        points = origins[near] + t * directions[near]
        mask[k, rows[near], columns[near]] = (signed_distance(points) < 0).any(0)
    return Views(0.5 * np.repeat(mask[..., None], 3, axis=-1), mask, poses, FOCAL, FOCAL, SIDE / 2, SIDE / 2,
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


def test_trilinear_sampling_and_gradient_are_exact_for_a_plane():
    axis = grid.vertices(8, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    plane = (2 * x - y + 0.5 * z + 0.1).astype(np.float32)
    points = np.random.RandomState(0).uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
    expected = points.astype(np.float64) @ [2, -1, 0.5] + 0.1
    np.testing.assert_allclose(grid.sample(plane, HALF, points), expected, atol=1e-6)
    inner = points[np.abs(points).max(1) < 0.45]
    np.testing.assert_allclose(grid.gradient(plane, HALF, inner), np.tile([2, -1, 0.5], (len(inner), 1)), atol=1e-5)


def test_tracing_a_ball_gives_the_distance_in_closed_form():
    axis = grid.vertices(64, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    sphere = (np.sqrt(x * x + y * y + z * z) - 0.4).astype(np.float32)
    offset = np.linspace(-0.5, 0.5, 41, dtype=np.float32)
    origins = np.stack([np.full(41, 2, np.float32), offset, np.zeros(41, np.float32)], axis=-1)
    found = grid.trace(sphere, HALF, origins, np.tile(np.float32([-1, 0, 0]), (41, 1)))
    hit = np.abs(offset) < 0.4
    assert np.isfinite(found[np.abs(offset) < 0.39]).all() and np.isinf(found[np.abs(offset) > 0.41]).all()
    exact = 2 - np.sqrt(0.16 - offset[hit] ** 2)
    inner = np.abs(offset[hit]) < 0.35
    np.testing.assert_allclose(found[hit][inner], exact[inner], atol=2e-3)


def test_outline_distance_knows_fractions_of_a_pixel():
    mask = np.zeros((20, 20), np.float32)
    mask[:, 8:] = 1
    mask[:, 7] = 0.25                           # a vertical outline a quarter pixel into column 7
    found = hull.outline_distance(mask)[10]
    np.testing.assert_allclose(found[7:13], [0.25, -0.5, -1.5, -2.5, -3.5, -4.5], atol=1e-6)
    np.testing.assert_allclose(found[4:7], [3.5, 2.5, 1.5], atol=1e-6)


def test_outline_distance_is_the_same_each_time():
    """Distances of OpenCV differ in their last bit from call to call."""
    disc = (np.hypot(*(np.mgrid[:64, :64] - 31.3)) < 20.4).astype(np.float32)
    found = [hull.outline_distance(disc.copy()) for _ in range(50)]
    assert all(np.array_equal(again, found[0]) for again in found)
    squares = (np.abs(found[0].astype(np.float64)) + 0.5) ** 2
    np.testing.assert_allclose(squares, np.rint(squares), atol=1e-3)


def test_the_hull_of_a_ball_is_the_ball_where_views_bound_it():
    views = views_of(ball(0.4), Orbit.dynamic(3, 10))
    sdf = hull.hull_sdf(views, 48, HALF)
    axis = grid.vertices(48, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt(x * x + y * y + z * z)
    pixel = DISTANCE / FOCAL
    assert (sdf[radius < 0.4 - pixel] < 0).all()
    waist = np.abs(z) < 0.15
    assert (sdf[waist & (radius > 0.4 + 2.5 * pixel)] > 0).all()
    centre = grid.sample(sdf, HALF, np.zeros((1, 3)))[0]
    np.testing.assert_allclose(centre, -0.4, atol=0.03)


def test_a_closed_grid_has_no_inside_on_its_border_and_is_unchanged_within():
    sdf = np.full((17, 17, 17), -1, np.float32)
    found = hull.closed(sdf, HALF)
    border = np.ones(found.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert (found[border] > 0).all() and (found[~border] < 0).all()
    np.testing.assert_allclose(found[8, 8, 8], -(HALF - HALF / 16), rtol=1e-5)


def test_the_base_of_a_cylinder_is_found_and_a_ball_seen_from_below_keeps_its_underside():
    views = views_of(cylinder, Orbit.static(15))
    sdf = hull.closed(hull.hull_sdf(views, 96, HALF), HALF)
    depth = grid.vertices(96, HALF)[np.argwhere(sdf < 0)[:, 2].min()]
    assert depth < -0.44                        # the cone below a camera at 15 degrees
    height = hull.base_height(sdf, HALF, views)
    assert abs(height + 0.4) < 0.02
    assert hull.cut_below(sdf, HALF, height)[..., grid.vertices(96, HALF) < height].min() > 0
    around = views_of(ball(0.35), Orbit.sine(70, 0))
    sdf = hull.closed(hull.hull_sdf(around, 64, HALF), HALF)
    height = hull.base_height(sdf, HALF, around)
    assert height is None or height < -0.33


def test_a_dented_underside_goes_down_to_the_rim_inside_the_hull():
    """A box whose underside bulges inwards: its hidden middle joins the rim, the walls and the top stay.

    Where the hull, here a cone with its tip below, is higher than the rim, the middle stops at the hull.
    """
    box = trimesh.creation.box((0.6, 0.6, 0.8)).subdivide().subdivide().subdivide()
    vertices, faces = np.array(box.vertices, np.float32), np.array(box.faces)
    inside = (vertices[:, 2] < -0.39) & (np.abs(vertices[:, :2]).max(1) < 0.29)
    vertices[inside, 2] += 0.015
    axis = grid.vertices(64, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    flat = hull.flattened(vertices, faces, -0.39, (np.abs(z) - 0.5).astype(np.float32), HALF)
    np.testing.assert_allclose(flat[inside, 2], -0.4, atol=1e-6)
    np.testing.assert_array_equal(flat[~inside], vertices[~inside])
    cone = (np.hypot(x, y) - (z + 0.55)).astype(np.float32)     # radius .15 at the rim
    flat = hull.flattened(vertices, faces, -0.39, cone, HALF)
    radius = np.hypot(*vertices[inside, :2].T)
    assert (flat[inside, 2][radius < 0.13] < -0.3999).all()
    assert (flat[inside, 2] == vertices[inside, 2])[radius > 0.17].all()
    np.testing.assert_array_equal(hull.flattened(vertices, faces, -0.6, cone, HALF), vertices)


@pytest.mark.parametrize("scale, centre", [(1.0, (0, 0, 0)), (37.0, (100.0, -20.0, 3.0)), (0.01, (0.5, 0.5, 0.5))])
def test_an_object_of_any_size_anywhere_comes_into_the_box_and_back(scale, centre):
    views = views_of(cylinder, Orbit.static(15), centre, scale)
    framed = framing.framed(views)
    if scale == 1.0:
        assert framed is views
    sdf = hull.closed(hull.hull_sdf(framed, 48, HALF), HALF)
    inside = np.argwhere(sdf < 0)
    extent = np.ptp(grid.vertices(48, HALF)[inside], axis=0)
    assert 0.6 < extent.max() <= 1.1
    corner = np.array([0.3, -0.2, 0.1])
    world = corner * scale + centre
    np.testing.assert_allclose(framed.to_world((world - framed.centre) * framed.scale), world, rtol=1e-9)
    eye = framed.to_world(framed.c2w[0, :3, 3])
    np.testing.assert_allclose(eye, views.c2w[0, :3, 3], rtol=1e-6, atol=1e-6 * scale)


def test_poses_counted_the_other_way_are_refused_with_the_remedy():
    views = views_of(cylinder, Orbit.static(15))
    wrong = framing.mirrored(views, np.zeros(3))
    with pytest.raises(ShapeError, match="azimuth-sign"):
        framing.framed(wrong, "there")
    back = framing.mirrored(wrong, np.zeros(3))
    np.testing.assert_allclose(back.c2w, views.c2w, atol=1e-12)


def test_cameras_that_cannot_be_used_are_one_line():
    views = views_of(ball(0.4), Orbit.static(10, 12))
    same = views.subset([0, 0, 0])
    with pytest.raises(ShapeError, match="one place"):
        framing.framed(same, "there")
    c2w = views.c2w.copy()
    c2w[:, :3, 2] *= -1
    c2w[:, :3, 0] *= -1                         # looking outwards: OpenCV matrices read as OpenGL
    with pytest.raises(ShapeError, match="looks away"):
        framing.framed(Views(views.rgb, views.mask, c2w, *views.intrinsics), "there")
    moved = views.c2w.copy()
    moved[::2, :3, 3] += [0, 0, 1.5]
    with pytest.raises(ShapeError):
        framing.framed(Views(views.rgb, views.mask, moved, *views.intrinsics), "there")


def test_a_view_that_contradicts_the_others_is_outvoted():
    """Of 21 outlines of a ball one is a fifth of the picture aside: it alone cuts away what all others show."""
    views = views_of(ball(0.35), Orbit.static(10))
    assert framing.outvoted(views) == 0
    wrong = views.mask.copy()
    wrong[3] = np.roll(wrong[3], 19, axis=1)
    spoilt = Views(views.rgb, wrong, views.c2w, *views.intrinsics)
    assert framing.outvoted(spoilt) == 1
    sizes = [(hull.closed(hull.hull_sdf(v, 32, HALF, count), HALF) < 0).sum() for v, count in
             ((views, 0), (spoilt, 0), (spoilt, 1))]
    assert sizes[1] < 0.8 * sizes[0] and sizes[0] <= sizes[2] < 1.15 * sizes[0]


def rotation(axis, degrees):
    axis, angle = np.asarray(axis, float) / np.linalg.norm(axis), np.radians(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def test_a_camera_turned_shows_a_point_where_it_was_found():
    views = views_of(ball(0.3), Orbit.static(15, 3))
    camera, intrinsics = views.c2w[1], views.intrinsics
    place, found = np.array([40.0, 30.0]), np.array([52.0, 61.0])

    def ray(c2w, pixel):
        local = np.array([(pixel[0] - SIDE / 2) / FOCAL, (SIDE / 2 - pixel[1]) / FOCAL, -1])
        return c2w[:3, :3] @ local / np.linalg.norm(local)

    out = alignment.turned(camera, intrinsics, place, found)
    np.testing.assert_allclose(ray(out, found), ray(camera, place), atol=1e-12)
    np.testing.assert_allclose(out[:3, :3] @ out[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(out[:, 3], camera[:, 3])
    least = np.degrees(np.arccos(ray(camera, place) @ ray(camera, found)))
    turn = np.degrees(np.arccos((np.trace(out[:3, :3] @ camera[:3, :3].T) - 1) / 2))
    assert turn == pytest.approx(least, rel=1e-9)


def test_outlines_are_shifted_onto_masks():
    disc = np.hypot(*(np.mgrid[:SIDE, :SIDE] - np.array([40, 50])[:, None, None])) < 15
    moved = np.roll(disc, (7, -4), (0, 1))
    np.testing.assert_allclose(alignment.shift(disc, moved.astype(np.float32)), [-4, 7], atol=0.05)


def test_one_move_of_the_object_is_left_out_of_all_shifts():
    views, move = views_of(ball(0.3), Orbit.dynamic(20, 5)), np.array([0.01, -0.02, 0.03])

    def pixels(views, point):
        local = np.einsum("nji,nj->ni", views.c2w[:, :3, :3], point - views.c2w[:, :3, 3])
        return FOCAL * local[:, :2] / -local[:, 2:] * (1, -1)

    common = pixels(views, move) - pixels(views, np.zeros(3))
    np.testing.assert_allclose(alignment.without_common(common, views), 0, atol=0.1)       # of 5 pixels
    alone = np.zeros((len(views), 2))
    alone[7] = 4, 0
    left = alignment.without_common(alone, views)
    assert left[7, 0] > 3.5 and np.abs(np.delete(left, 7, axis=0)).max() < 0.7


@pytest.mark.parametrize("orbit, seed", [(Orbit.static(15, 12), 0), (Orbit.dynamic(4, 10, 12), 1)], ids=["static", "dynamic"])
def test_poses_in_another_order_are_refused_with_the_remedy(orbit, seed):
    """What the wrong order leaves of it is well above HOPELESS."""
    views = views_of(oval, orbit)
    wrong = Views(views.rgb, views.mask, views.c2w[np.random.RandomState(seed).permutation(len(views))], *views.intrinsics)
    with pytest.raises(ShapeError, match="there: .* expected 93%; .* at random reach ..%: .*file_path") as found:
        framing.framed(wrong, "there")
    assert "azimuth-sign" not in str(found.value)


@pytest.mark.parametrize("shape, most", [(oval, 3), (cylinder, 6)])
def test_bad_masks_are_warned_of_but_no_reason_to_doubt_the_poses(caplog, shape, most):
    """Outlines eaten away by up to `most` pixels, in each view by another number; of a round object too, though order tells
    nothing there."""
    views = views_of(shape, Orbit.static(15))
    eaten = [cv2.erode(mask, np.ones((2 * k + 1, 2 * k + 1))) for k, mask in
             zip(np.random.RandomState(0).randint(0, most + 1, len(views)), views.mask)]
    with caplog.at_level("WARNING", "sgm"):
        framing.framed(Views(views.rgb, np.array(eaten), views.c2w, *views.intrinsics), "there")
    assert "disagree" in caplog.text


def test_directions_two_degrees_off_are_mended(caplog):
    views = views_of(cylinder, Orbit.static(15, 12))
    rng, c2w = np.random.default_rng(0), views.c2w.copy()
    for k in range(len(c2w)):
        c2w[k, :3, :3] = rotation(c2w[k, :3, :2] @ rng.standard_normal(2), 2) @ c2w[k, :3, :3]     # not about its own axis
    noisy = Views(views.rgb, views.mask, c2w, *views.intrinsics)
    with caplog.at_level("WARNING", "sgm"):
        mended = framing.framed(noisy, "there")
    assert "turned by up to" in caplog.text and "there" in caplog.text

    def off(found):
        return np.degrees(np.arccos(np.clip(np.einsum("ni,ni->n", found.c2w[:, :3, 2], views.c2w[:, :3, 2]), -1, 1)))

    assert off(noisy).mean() == pytest.approx(2, abs=1e-3) and off(mended).mean() < 1
    np.testing.assert_array_equal(mended.c2w[:, :3, 3], noisy.c2w[:, :3, 3])
