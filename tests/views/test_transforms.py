"""Files of cameras and orbits: written and read, those of other programs, wrong ones."""
import json

import numpy as np
import pytest
from PIL import Image

from sgm.views.cameras import CameraError, Orbit
from sgm.views.transforms import read_orbit, read_transforms, write_transforms


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
    (lambda d: d["frames"][0].update(transform_matrix=(2 * np.eye(4)).tolist()), "not a rotation"),
    (lambda d: d["frames"][0].update(transform_matrix=np.diag([1., 1, -1, 1]).tolist()), "not a rotation"),
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
                        ({"azimuths_deg": [0], "elevations_deg": [99]}, "orbit.json: elevations_deg"),
                        ({"frames": [{"azimuth_deg": 0}]}, "lack azimuth_deg or elevation_deg")):
        file.write_text(json.dumps(data))
        with pytest.raises(CameraError, match=words):
            read_orbit(file)
