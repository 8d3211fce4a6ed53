"""Which way is up: y or z, by the cameras, by EXIF, or as it is said."""
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from sgm.reconstruct.posed_views import PosedViews, ShapeError
from sgm.reconstruct.upright import TO_Z_UP, turned_upright
from sgm.views.cameras import Orbit, camera_to_world

Z_TO_Y_UP = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])             # (x, y, z) -> (x, z, -y)


def views_at(poses, files=()):
    count = len(poses)
    return PosedViews(np.zeros((count, 8, 8, 3), np.float32), np.ones((count, 8, 8), np.float32), poses, 8, 8, 4, 4,
                      files=files)


def in_y_up(poses):
    poses = poses.copy()
    poses[:, :3] = Z_TO_Y_UP @ poses[:, :3]
    return poses


ORBITS = {
    "static": Orbit.static(20, 9).poses(2.0), "dynamic": Orbit.dynamic(2, 30, 12).poses(2.0),
    "from above, one side": camera_to_world(np.array([70.0, 90, 110]), np.full(3, 75.0), 2.0),
}


@pytest.mark.parametrize("name", ORBITS)
def test_up_is_told_by_the_cameras(name, caplog):
    poses = ORBITS[name]
    views = views_at(poses)
    assert turned_upright(views) is views and turned_upright(views, "z") is views
    turned = turned_upright(views_at(in_y_up(poses)))
    np.testing.assert_allclose(turned.c2w, poses, atol=1e-12)
    np.testing.assert_array_equal(turned.upright, TO_Z_UP["y"])
    np.testing.assert_allclose(turned_upright(views_at(in_y_up(poses)), "y").c2w, poses, atol=1e-12)
    assert not caplog.records


def test_pictures_held_sideways_say_so(tmp_path):
    """Phones store upright pictures lying: the cameras' y is then to the side in the world."""
    for orientation, up in ((3, (0, -1)), (6, (-1, 0)), (8, (1, 0))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.jpg"
        Image.new("RGB", (8, 8)).save(file, exif=exif)
        for poses in (ORBITS["static"], in_y_up(ORBITS["static"])):
            stored = poses.copy()       # turned about the line of sight, so that its `up` is the one of the pose
            x, y = poses[:, :3, 0], poses[:, :3, 1]
            stored[:, :3, 0], stored[:, :3, 1] = up[1] * x + up[0] * y, up[1] * y - up[0] * x
            views = views_at(stored, (file,) * len(poses))
            assert (turned_upright(views) is views) == (poses is ORBITS["static"]), orientation


def turn_to(up):
    """The rotation by the least angle that takes z to a direction."""
    axis = np.cross([0, 0, 1], up)
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.arccos(up[2] / np.linalg.norm(up))).as_matrix()


def by_hand(up, rolled=3.0, count=40):
    """Cameras of photographs by hand in a world with this up: on all sides, up to `rolled` degrees rolled."""
    rng = np.random.RandomState(1)
    poses = camera_to_world(np.linspace(0, 330, count), rng.uniform(-10, 60, count), 2.0)
    rolls = np.radians(rng.uniform(-rolled, rolled, count))
    poses[:, :3, :3] = turn_to(up) @ poses[:, :3, :3] @ Rotation.from_rotvec(rolls[:, None] * [0, 0, 1]).as_matrix()
    poses[:, :3, 3] = poses[:, :3, 3] @ turn_to(up).T
    return poses


@pytest.mark.parametrize("up", [(0.1, 0, -1), (0.9, 0.3, -0.2), (0.1, 0.9, 0.2), (-0.08, 0.03, 1)])
def test_up_along_no_axis_is_found_and_given(up, caplog):
    """Least squares of level cameras: of 40, rolled by up to 3 degrees, it is told to a degree."""
    views = views_at(by_hand(up))
    with caplog.at_level("INFO", "sgm"):
        found = turned_upright(views)
    true = np.array(up) / np.linalg.norm(up)
    assert found.upright[2] @ true > np.cos(np.radians(1)) and np.linalg.det(found.upright) == pytest.approx(1)
    assert "the cameras' up is (" in caplog.text and "not clear" not in caplog.text
    given = turned_upright(views, ",".join(map(str, up)))
    np.testing.assert_allclose(given.upright @ true, [0, 0, 1], atol=1e-12)


def test_axes_are_taken_as_they_are():
    """An up within two degrees of z is z: pictures are not held that level."""
    views = views_at(by_hand((0.02, 0.01, 1)))
    assert turned_upright(views) is views


@pytest.mark.parametrize("poses", [by_hand((0.3, -1, -0.2), rolled=40), by_hand((0, 0.3, -1), count=6)],
                         ids=["rolled", "few"])
def test_an_up_that_cameras_do_not_tell_is_warned_of(caplog, poses):
    views = views_at(poses)
    assert turned_upright(views, "auto", "there") is views
    assert "there: which way is up is not clear" in caplog.text and "give up y, z or a direction X,Y,Z" in caplog.text


def test_a_steep_view_from_one_side_by_hand_is_no_other_axis(caplog):
    """Looking down from -y the cameras' mean up is nearer to y than to z; they are not level about y, though."""
    poses = camera_to_world(np.array([-110.0, -90, -75]), np.full(3, 60.0), 2.0)
    roll = np.radians(3)
    poses[:, :3, :2] = poses[:, :3, :2] @ np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    assert poses[:, 1, 1].mean() > 0.7
    views = views_at(poses)
    assert turned_upright(views) is views and "not clear" in caplog.text


def test_unknown_up():
    for up in ("x", "0,1", "0,0,0", "0,0,nan", "1,2,3,4"):
        with pytest.raises(ShapeError, match=f"^up: found '{up}', expected one of auto, z, y, or a direction X,Y,Z"):
            turned_upright(views_at(ORBITS["static"]), up)


def test_pixels_stay_where_they_are():
    """A turned world's rays are the turned rays."""
    views = views_at(ORBITS["dynamic"])
    turned = turned_upright(views, "y")
    place = np.array([1, 2]), np.array([1, 2]), np.array([3, 5])
    for plain, other in zip(views.rays(*place), turned.rays(*place)):
        np.testing.assert_allclose(plain @ TO_Z_UP["y"].T, other, atol=1e-6)
    assert turned.mask is views.mask
