import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.paths import GOLDEN

from sgm.views import cameras
from sgm.views.cameras import CameraError, Orbit
from sgm.views.transforms import read_orbit, read_transforms, write_transforms


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
    ([90, 0], [10], "--azimuths has 2 values and --elevations 1"),
    ([], [], "--azimuths"),
    ([90, 0], [10, 90], "--elevations: view 1 has 90"),
    ([90, 0], [-95, 0], "--elevations: view 0"),
    ([90, np.nan], [0, 0], "--azimuths"),
    ([[90, 0]], [0, 0], "--azimuths"),
    (["east", "0"], [0, 0], "--azimuths is not a list of numbers"),
    ([180, 90, 0], [0, 0, 0], "sort the azimuths"),
])
def test_bad_orbits(azimuths, elevations, words):
    with pytest.raises(CameraError, match=words) as error:
        Orbit.from_lists(azimuths, elevations)
    assert "\n" not in str(error.value)


def test_bad_sign_and_no_frames():
    with pytest.raises(CameraError, match="--azimuth-sign"):
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
    np.testing.assert_allclose(cameras.focal_length(views.width), views.fl, atol=1e-6)


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


def views_folder(path, orbit):
    for k in range(len(orbit)):
        (path / f"{k:03d}.png").touch()
    return write_transforms(path, orbit, 576)


def test_transforms_round_trip(tmp_path):
    orbit = Orbit.dynamic(seed=1, num_frames=5)
    file = views_folder(tmp_path, orbit)
    assert file == tmp_path / "transforms.json" and len(list(tmp_path.iterdir())) == 6
    views = read_transforms(tmp_path)
    np.testing.assert_array_equal(views.poses, orbit.poses(2.0))
    np.testing.assert_array_equal(views.azimuths_deg, orbit.azimuths_deg)
    np.testing.assert_array_equal(views.elevations_deg, orbit.elevations_deg)
    assert (views.width, views.height, views.cx, views.cy) == (576, 576, 288, 288)
    assert views.fl == pytest.approx(947.9196, abs=1e-3) and views.distance == pytest.approx(2)
    assert [f.name for f in views.files] == ["000.png", "001.png", "002.png", "003.png", "004.png"]
    again = read_orbit(file)
    np.testing.assert_allclose(again.azimuths_deg, orbit.azimuths_deg)
    data = json.loads(file.read_text())
    assert {"camera_angle_x", "camera_angle_y", "fl_x", "fl_y", "cx", "cy", "w", "h", "distance"} < set(data)
    assert set(data["frames"][0]) == {"file_path", "transform_matrix", "azimuth_deg", "elevation_deg"}
    with pytest.raises(CameraError, match="3 files for 5"):
        write_transforms(tmp_path, orbit, 576, files=["a.png", "b.png", "c.png"])


def test_reads_other_peoples_transforms(tmp_path):
    orbit = Orbit.static(num_frames=3)
    file = views_folder(tmp_path, orbit)
    data = json.loads(file.read_text())
    for key in ("fl_x", "fl_y", "cx", "cy", "camera_angle_y", "distance"):
        del data[key]
    for frame in data["frames"]:
        del frame["azimuth_deg"], frame["elevation_deg"]
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    file.write_text(json.dumps(data))
    views = read_transforms(file)
    assert views.fl == pytest.approx(947.9196, abs=1e-3) and views.cx == 288
    np.testing.assert_allclose(views.azimuths_deg, [120, 240, 0], atol=1e-9)
    np.testing.assert_allclose(views.elevations_deg, [10, 10, 10])
    assert all(f.is_file() for f in views.files)


def test_intrinsics_may_stand_in_the_frames(tmp_path):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    data = json.loads(file.read_text())
    own = {key: data.pop(key) for key in ("w", "h", "fl_x", "cx", "cy")}
    del data["fl_y"], data["camera_angle_x"]
    for frame in data["frames"]:
        frame.update(own, mask_path=frame["file_path"])
    data["frames"][1].pop("mask_path")
    file.write_text(json.dumps(data))
    views = read_transforms(file)
    assert (views.width, views.height, views.fl, views.cx) == (576, 576, own["fl_x"], 288)
    assert [mask and mask.name for mask in views.masks] == ["000.png", None, "002.png"]
    data["frames"][2]["fl_x"] = 900.0
    file.write_text(json.dumps(data))
    with pytest.raises(CameraError, match=r"frames\[2\] has fl_x 900.0.*expected one camera for all"):
        read_transforms(file)


def test_without_a_size_the_first_picture_has_it(tmp_path):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    Image.new("RGB", (40, 30)).save(tmp_path / "000.png")
    data = {"camera_angle_x": 0.5, "frames": json.loads(file.read_text())["frames"]}
    file.write_text(json.dumps(data))
    views = read_transforms(file)
    assert (views.width, views.height, views.cx, views.cy) == (40, 30, 20, 15)
    assert views.fl == pytest.approx(20 / np.tan(0.25))
    (tmp_path / "000.png").write_bytes(b"no picture")
    with pytest.raises(CameraError, match="000.png: cannot be read as an image; without w and h"):
        read_transforms(file)


@pytest.mark.parametrize("damage, words", [
    (lambda d: d.pop("frames"), "frames is missing"),
    (lambda d: d.update(frames=[]), "frames is"),
    (lambda d: d["frames"].__setitem__(1, "x"), r"frames\[1\] has no file_path"),
    (lambda d: d["frames"][1].pop("file_path"), r"frames\[1\] has no file_path"),
    (lambda d: d["frames"][2].pop("transform_matrix"), r"frames\[2\]: transform_matrix is missing"),
    (lambda d: d["frames"][2].update(transform_matrix=[["a"] * 4] * 4), "transform_matrix is missing or not"),
    (lambda d: d["frames"][0].update(transform_matrix=(2 * np.eye(4)).tolist()), "no rotation"),
    (lambda d: d["frames"][0].update(transform_matrix=np.diag([1., 1, -1, 1]).tolist()), "no rotation"),
    (lambda d: d["frames"][0].update(file_path="lost.png"), "lost.png does not exist"),
    (lambda d: d["frames"][0].update(mask_path="lost.png"), "lost.png does not exist; mask_path must"),
    (lambda d: d["frames"][0].update(azimuth_deg="east"), "azimuth_deg is not a list of numbers"),
    (lambda d: d.pop("w"), "w is missing"),
    (lambda d: d.update(h="tall"), "h is 'tall'"),
    (lambda d: d.update(fl_x=None), "fl_x is missing"),
    (lambda d: d.update(fl_y=900), "square pixels"),
    (lambda d: d.update(k1=0.1), "k1 is 0.1"),
    (lambda d: [d.pop("fl_x"), d.pop("camera_angle_x")], "neither fl_x nor camera_angle_x"),
])
def test_bad_transforms(tmp_path, damage, words):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    data = json.loads(file.read_text())
    damage(data)
    file.write_text(json.dumps(data))
    with pytest.raises(CameraError, match=words) as error:
        read_transforms(tmp_path)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_unreadable_transforms(tmp_path):
    with pytest.raises(CameraError, match="cannot be read"):
        read_transforms(tmp_path)
    file = tmp_path / "transforms.json"
    for content, words in ((b"{", "not JSON"), (b"\xff\xfe\x00", "not JSON"), (b"[]", "holds a list")):
        file.write_bytes(content)
        with pytest.raises(CameraError, match=words):
            read_transforms(tmp_path)


def test_orbit_files(tmp_path):
    file = tmp_path / "orbit.json"
    file.write_text(json.dumps({"azimuths_deg": [90, 180, 0], "elevations_deg": [1, 2, 3]}))
    np.testing.assert_array_equal(read_orbit(file).elevations_deg, [1, 2, 3])
    for data, words in (({"azimuths_deg": [0]}, "elevations_deg is missing"),
                        ({"azimuths_deg": [0], "elevations_deg": [99]}, "orbit.json: --elevations"),
                        ({"frames": [{"azimuth_deg": 0}]}, "lack azimuth_deg or elevation_deg")):
        file.write_text(json.dumps(data))
        with pytest.raises(CameraError, match=words):
            read_orbit(file)
