"""Orbits and cameras, on numbers found by hand and on those of the original."""
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.paths import GOLDEN

from sgm.views import cameras
from sgm.views.cameras import EVALUATION, CameraError, Orbit
from sgm.views.transforms import read_orbit, read_transforms


def test_static_orbit_is_what_the_reference_feeds():
    golden = load_file(GOLDEN / "embed.safetensors")
    orbit = Orbit.static(elevation=10, num_frames=21)
    np.testing.assert_allclose(orbit.azimuths_rad, golden["out/azimuths_rad_21"], atol=1e-12)
    np.testing.assert_allclose(orbit.polars_rad, golden["out/polars_rad_21"], atol=1e-12)
    assert orbit.azimuths_rad[-1] == 0 and orbit.azimuths_rad.dtype == np.float64


def test_orbit_by_hand():
    orbit = Orbit.static(elevation=-5, num_frames=4)
    np.testing.assert_array_equal(orbit.azimuths_deg, [90, 180, 270, 0])
    np.testing.assert_allclose(orbit.polars_rad, np.deg2rad([95] * 4))
    sine = Orbit.sine(amplitude=30, elevation=10, num_frames=4)
    np.testing.assert_allclose(sine.elevations_deg, [40, 10, -20, 10], atol=1e-12)
    assert len(Orbit.static(num_frames=1)) == 1


def test_rings():
    """Eight cameras a ring to train on, the four to evaluate with midway between two of them; the last is the input view."""
    orbit = Orbit.rings()
    held = np.arange(36)[EVALUATION]
    assert len(held) == 12 and (orbit.azimuths_deg[-1], orbit.elevations_deg[-1]) == (0, 20)
    for elevation in (0, 20, 40):
        ring = np.flatnonzero(orbit.elevations_deg == elevation)
        train, test = (np.sort(orbit.azimuths_deg[list(part)]) for part in (set(ring) - set(held), set(ring) & set(held)))
        assert np.diff(train).tolist() == [45] * 7 and np.diff(test).tolist() == [90] * 3
        assert np.abs((test[:, None] - train + 180) % 360 - 180).min(1).tolist() == [22.5] * 4


def test_azimuths_are_relative_to_the_last_view():
    orbit = Orbit.from_lists([100, 280, 370], [0, 1, 2])
    np.testing.assert_array_equal(orbit.azimuths_deg, [90, 270, 0])
    np.testing.assert_array_equal(Orbit.from_lists([120, 240, 360], [0, 0, 0]).azimuths_deg, [120, 240, 0])
    hair = Orbit.from_lists([0.1 + 0.2, 100, 0.3], [0, 0, 0])   # 0.1 + 0.2 is a hair above 0.3
    np.testing.assert_allclose(hair.azimuths_deg, [0, 99.7, 0], atol=1e-9)
    with pytest.raises(ValueError):
        orbit.azimuths_deg[0] = 5


@pytest.mark.parametrize("seed", range(20))
def test_dynamic_orbit(seed):
    orbit = Orbit.dynamic(seed=seed, elevation=15, num_frames=21)
    assert len(orbit) == 21 and orbit.elevations_deg[-1] == 15 and orbit.azimuths_deg[-1] == 0
    assert (np.diff(orbit.azimuths_deg[:-1]) > 4).all() and np.abs(orbit.elevations_deg).max() <= 89
    assert np.ptp(orbit.elevations_deg) > 3
    np.testing.assert_array_equal(orbit.elevations_deg, Orbit.dynamic(seed, 15).elevations_deg)
    assert not np.array_equal(orbit.elevations_deg, Orbit.dynamic(seed + 1, 15).elevations_deg)
    steep = Orbit.dynamic(seed=seed, elevation=88)
    assert steep.elevations_deg[-1] == 88 and np.abs(steep.elevations_deg).max() <= 89


def test_sign_moves_the_cameras_and_not_what_the_network_is_fed():
    orbit = Orbit.static(num_frames=4).with_sign(-1)
    np.testing.assert_array_equal(orbit.azimuths_deg, [90, 180, 270, 0])
    np.testing.assert_array_equal(orbit.camera_azimuths_deg, [270, 180, 90, 0])
    np.testing.assert_allclose(orbit.poses(2)[0, :3, 3], cameras.position(270, 10, 2), atol=1e-12)
    np.testing.assert_array_equal(orbit.with_sign(1).camera_azimuths_deg, [90, 180, 270, 0])


@pytest.mark.parametrize("azimuths, elevations, words", [
    ([90, 0], [10], "azimuths_deg has 2 values and elevations_deg 1"),
    ([], [], "azimuths_deg"),
    ([90, 0], [10, 90], "elevations_deg: view 1 has 90"),
    ([90, 0], [-95, 0], "elevations_deg: view 0"),
    ([90, np.nan], [0, 0], "azimuths_deg"),
    ([[90, 0]], [0, 0], "azimuths_deg"),
    (["east", "0"], [0, 0], "azimuths_deg is not a list of numbers"),
    ([180, 90, 0], [0, 0, 0], "sort the azimuths"),
])
def test_bad_orbits(azimuths, elevations, words):
    with pytest.raises(CameraError, match=words) as error:
        Orbit.from_lists(azimuths, elevations)
    assert "\n" not in str(error.value)


def test_bad_sign_and_no_frames():
    with pytest.raises(CameraError, match="^sign is"):
        Orbit.static().with_sign(0)
    with pytest.raises(CameraError):
        Orbit.static(num_frames=0)


def test_camera_to_world_by_hand():
    expected = [[0, 0, 1, 2], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]   # at +x: right is +y, up is +z
    np.testing.assert_allclose(cameras.camera_to_world(0, 0, 2), expected, atol=1e-15)
    np.testing.assert_allclose(cameras.position(90, 30, 2), [0, np.sqrt(3), 1], atol=1e-12)
    poses = cameras.camera_to_world(np.arange(0, 360, 30), np.linspace(-80, 80, 12), 1.5)
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (12, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_allclose(poses[:, :3, 3] - 1.5 * poses[:, :3, 2], 0, atol=1e-12)   # the origin is straight ahead
    assert (poses[:, 2, 1] > 0).all()                                                    # image up is world up


def test_poses_agree_with_the_evaluation_objects(tmp_path):
    file = shutil.copy(GOLDEN / "views" / "panda_static.json", tmp_path / "transforms.json")
    for k in range(21):
        (tmp_path / f"{k:03d}.png").touch()
    views, orbit = read_transforms(tmp_path), read_orbit(file)
    assert len(orbit) == 21
    np.testing.assert_allclose(orbit.poses(views.distance), views.poses, atol=1e-6)
    np.testing.assert_allclose(cameras.focal_length(views.lens.width), views.lens.fl_x, atol=1e-6)


def test_rays_and_project_by_hand():
    pose = cameras.camera_to_world(0, 0, 2)
    fl = cameras.focal_length(4, 90)
    assert fl == pytest.approx(2)
    origins, directions = cameras.rays(pose, 4, 2, fl)
    assert origins.shape == directions.shape == (2, 4, 3)
    np.testing.assert_array_equal(origins[1, 3], [2, 0, 0])
    corner = np.array([-1, -0.75, 0.25])   # pixel (0.5, 0.5): 1.5 px left of and 0.5 px above the principal point
    np.testing.assert_allclose(directions[0, 0], corner / np.linalg.norm(corner), atol=1e-12)
    pixels, depth = cameras.project([[0, 0.5, 0.5], [3, 0, 0]], pose, fl, 2, 1)
    np.testing.assert_allclose(pixels[0], [2.5, 0.5])   # right on +y, up on +z
    np.testing.assert_allclose(depth, [2, -1])


def test_project_inverts_rays():
    poses = Orbit.dynamic(seed=3).poses()
    origins, directions = cameras.rays(poses, 8, 6, 9.0, cx=3.5, cy=3.25)
    assert origins.shape == (21, 6, 8, 3)
    x, y = np.meshgrid(np.arange(8) + 0.5, np.arange(6) + 0.5)
    for k in (0, 7, 20):
        pixels, depth = cameras.project(origins[k] + 1.7 * directions[k], poses[k], 9.0, 3.5, 3.25)
        np.testing.assert_allclose(pixels, np.stack([x, y], axis=-1), atol=1e-9)
        assert (depth > 0).all()
