"""Files of cameras and orbits: written and read, those of other programs, wrong ones."""
import json
import os

import numpy as np
import pytest
from PIL import Image

from sgm.views.cameras import CameraError, Orbit
from sgm.views.transforms import read_orbit, read_transforms, replace_poses, write_transforms


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
    lens = views.lens
    assert (lens.width, lens.height, lens.cx, lens.cy) == (576, 576, 288, 288)
    assert lens.fl_x == lens.fl_y == pytest.approx(947.9196, abs=1e-3) and views.distance == pytest.approx(2)
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
    assert views.lens.fl_x == pytest.approx(947.9196, abs=1e-3) and views.lens.cx == 288
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
    assert (views.lens.width, views.lens.height, views.lens.fl_x, views.lens.cx) == (576, 576, own["fl_x"], 288)
    assert [mask and mask.name for mask in views.masks] == ["000.png", None, "002.png"]
    data["frames"][2]["fl_x"] = 900.0
    file.write_text(json.dumps(data))
    views = read_transforms(file)
    assert views.lens is None and [lens.fl_x for lens in views.lenses] == [own["fl_x"], own["fl_x"], 900.0]


def test_without_a_size_the_pictures_have_it(tmp_path):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    for k, size in enumerate(((40, 30), (80, 60), (40, 30))):
        Image.new("RGB", size).save(tmp_path / f"{k:03d}.png")
    data = {"camera_angle_x": 0.5, "frames": json.loads(file.read_text())["frames"]}
    file.write_text(json.dumps(data))
    views = read_transforms(file)
    lens = views.lens
    assert (lens.width, lens.height, lens.cx, lens.cy) == (40, 30, 20, 15)
    assert lens.fl_x == pytest.approx(20 / np.tan(0.25))
    (tmp_path / "000.png").write_bytes(b"no picture")
    with pytest.raises(CameraError, match="000.png: cannot be read as an image; without w and h"):
        read_transforms(file)


@pytest.mark.parametrize("damage, words", [
    (lambda d: d.pop("frames"), "frames is missing"),
    (lambda d: d.update(frames=[]), "frames is"),
    (lambda d: d["frames"].__setitem__(1, "x"), r"frames\[1\] has no file_path"),
    (lambda d: d["frames"][1].pop("file_path"), r"frames\[1\] has no file_path"),
    (lambda d: d["frames"][1].update(file_path=""), r"frames\[1\] has no file_path"),
    (lambda d: d["frames"][2].pop("transform_matrix"), r"frames\[2\]: transform_matrix is missing"),
    (lambda d: d["frames"][2].update(transform_matrix=[["a"] * 4] * 4), "transform_matrix is missing or not"),
    (lambda d: d["frames"][0].update(transform_matrix=(2 * np.eye(4)).tolist()), "not a rotation"),
    (lambda d: d["frames"][0].update(transform_matrix=np.diag([1., 1, -1, 1]).tolist()), "not a rotation"),
    (lambda d: d["frames"][0].update(transform_matrix=np.array(d["frames"][0]["transform_matrix"]).T.tolist()), "transposed"),
    (lambda d: d["frames"][1].update(fl_x=700.0), r"frames\[1\] has fl_x 700.0, but 947.9.* stands next to frames"),
    (lambda d: d["frames"][0].update(file_path="lost.png"), "lost.png does not exist"),
    (lambda d: d["frames"][0].update(mask_path=["a.png"]), r"mask_path is \[.a.png.\]; expected the path of one"),
    (lambda d: d["frames"][0].update(mask_path="lost.png"), "lost.png does not exist; mask_path must"),
    (lambda d: d["frames"][0].update(azimuth_deg="east"), "azimuth_deg is not a list of numbers"),
    (lambda d: d.update(distortion=json.loads("[" * 900 + "1" + "]" * 900)), "nested too deeply|not modeled"),
    (lambda d: d.pop("w"), "w is missing"),
    (lambda d: d.update(h="tall"), "h is 'tall'"),
    (lambda d: d.update({key: None for key in ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")}), "neither fl_x nor"),
    (lambda d: d.update(fl_y=900), "camera_angle_y is 0.58.*focal length of 947.9 pixels, but fl_y is 900.0"),
    (lambda d: [d.pop(key) for key in ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")], "neither fl_x nor camera_angle_x"),
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
    for content, words in ((b'{"w": 3, "w": 4}', "w is there twice"), (b"{", "not JSON"), (b"\xff\xfe\x00", "not JSON"), (b"[]", "holds a list")):
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


def test_frames_of_another_shape(tmp_path):
    """The shorter side has the field of view, and pixels are square."""
    for size, angles in (((48, 64), ("camera_angle_y", "camera_angle_x")), ((64, 48), ("camera_angle_x", "camera_angle_y"))):
        data = json.loads(write_transforms(tmp_path, Orbit.static(num_frames=3), size).read_text())
        assert (data["h"], data["w"], data["cy"], data["cx"]) == (*size, size[0] / 2, size[1] / 2)
        assert data["fl_x"] == data["fl_y"] == pytest.approx(24 / np.tan(np.radians(16.9)))
        assert np.degrees(data[angles[0]]) == pytest.approx(33.8) and np.degrees(data[angles[1]]) == pytest.approx(
            2 * np.degrees(np.arctan(32 / data["fl_x"])))
        for k in range(3):
            (tmp_path / f"{k:03d}.png").touch()
        assert read_transforms(tmp_path).lens.width == size[1]


def renamed(folder, names, encoding="utf-8"):
    """A transforms.json whose frames have these file_path."""
    data = json.loads(write_transforms(folder, Orbit.static(num_frames=3), 64).read_text())
    for frame, name in zip(data["frames"], names):
        frame["file_path"] = name
    (folder / "transforms.json").write_bytes(json.dumps(data).encode(encoding))
    return read_transforms(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, encoding):
    for k in range(3):
        (tmp_path / f"{k:03d}.png").touch()
    assert len(renamed(tmp_path, [f"{k:03d}.png" for k in range(3)], encoding).files) == 3


@pytest.mark.parametrize("form, stored, warned", [
    ("images\\{}.png", "images/{}.png", False),                     # RealityCapture
    (".\\images\\{}.JPG", "images/{}.JPG", False),
    ("./{}", "{}.jpg", False),                                      # Blender's form, JPEG
    ("./{}", "{}.PNG", False),
    ("images/v1.{}", "images/v1.{}.webp", False),
    ("images/{}.png", "images/{}.jpg", True),                       # another ending than it says
    ("/home/ann/cup/images/{}.png", "images/{}.png", True),         # of another machine
    ("C:\\Users\\Ann\\cup\\{}.png", "{}.png", True),
    ("D:/cup/images/{}.png", "images/{}.jpg", True),
])
def test_files_are_found_as_other_programs_name_them(tmp_path, caplog, form, stored, warned):
    (tmp_path / "images").mkdir()
    for k in range(3):
        (tmp_path / stored.format(k)).touch()
    views = renamed(tmp_path, [form.format(k) for k in range(3)])
    assert [file.relative_to(tmp_path).as_posix() for file in views.files] == [stored.format(k) for k in range(3)]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warned and (not warned or f"3 of its files are not where it says; others are used, as {tmp_path}" in said[0])


def test_files_that_may_be_two_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("images/a.png", "a.png", "b.png", "b.jpg", "c.png"):
        (tmp_path / name).touch()
    for name in ("/elsewhere/images/a.png", "b"):
        with pytest.raises(CameraError, match=r"frames\[0\]: file_path .* may be .* or .*; remove one"):
            renamed(tmp_path, [name, "c.png", "images/a.png"])
    with pytest.raises(CameraError, match=r"frames\[0\] and frames\[2\] have two poses for one picture, c.png"):
        renamed(tmp_path, ["/one/c.png", "a.png", "/two/c.png"])
    for name in ("images/c.png", "/elsewhere/d.png", "x" * 5000, "a\0.png"):      # a relative name is not looked for elsewhere
        with pytest.raises(CameraError, match="does not exist"):
            renamed(tmp_path, [name, "a.png", "b.png"])


def test_a_mask_of_another_machine_is_none_of_the_pictures(tmp_path):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    data = json.loads(file.read_text())
    for k, frame in enumerate(data["frames"]):
        frame["mask_path"] = f"/elsewhere/masks/{k:03d}.png"
    file.write_text(json.dumps(data))
    with pytest.raises(CameraError, match="masks/000.png does not exist; mask_path must"):
        read_transforms(file)


def test_the_world_before_it_was_moved(tmp_path):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    np.testing.assert_array_equal(read_transforms(file).applied, np.eye(4))
    data = json.loads(file.read_text())
    data.update(applied_transform=[[0, 1, 0, 3], [1, 0, 0, 0], [0, 0, -1, 0]], applied_scale=0.5)
    file.write_text(json.dumps(data))
    np.testing.assert_array_equal(read_transforms(file).applied @ [1, 2, 3, 1], [2.5, 0.5, -1.5, 1])
    for wrong in ({"applied_transform": [[0] * 4] * 3}, {"applied_transform": "none"}, {"applied_scale": 0}):
        file.write_text(json.dumps(data | wrong))
        with pytest.raises(CameraError, match=list(wrong)[0]):
            read_transforms(file)


def test_two_poses_for_one_picture_are_warned_of(tmp_path, caplog):
    for k in range(3):
        (tmp_path / f"{k:03d}.png").touch()
    renamed(tmp_path, ["000.png", "001.png", "000.png"])
    assert "frames[0] and frames[2] have two poses for one picture, 000.png" in caplog.text


def test_other_poses_are_written_and_the_file_kept(tmp_path):
    """In the form that was there: 3 x 4 stays, an elevation is written where one was, names of old files are free ones."""
    file = views_folder(tmp_path, Orbit.static(10, 3))
    data = json.loads(file.read_text()) | {"note": "ä"}
    data["frames"][1]["transform_matrix"] = data["frames"][1]["transform_matrix"][:3]
    del data["frames"][2]["elevation_deg"]
    file.write_text(json.dumps(data))
    before, raised = file.read_bytes(), Orbit.static(25, 3)
    assert replace_poses(tmp_path, raised.poses(), raised.elevations_deg) == tmp_path / "transforms.old.json"
    assert (tmp_path / "transforms.old.json").read_bytes() == before
    now = json.loads(file.read_text())
    np.testing.assert_array_equal(read_transforms(file).poses, raised.poses())
    assert [len(frame["transform_matrix"]) for frame in now["frames"]] == [4, 3, 4]
    assert [frame.get("elevation_deg") for frame in now["frames"]] == [25, 25, None] and now["note"] == "ä"
    assert [frame["azimuth_deg"] for frame in now["frames"]] == [frame["azimuth_deg"] for frame in data["frames"]]
    assert replace_poses(file, raised.poses(), raised.elevations_deg).name == "transforms.old1.json"


def test_null_says_nothing_and_the_file_may_have_any_name(tmp_path):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    known = read_transforms(file).lens
    data = json.loads(file.read_text()) | {"fl_x": None, "fl_y": None, "k1": None, "camera_model": None}
    for name in ("cameras.JSON", "cameras.txt"):
        (tmp_path / name).write_text(json.dumps(data))
        assert read_transforms(tmp_path / name).lens.is_like(known)


def test_a_pipe_among_the_pictures_is_named(tmp_path):
    file = views_folder(tmp_path, Orbit.static(num_frames=3))
    (tmp_path / "001.png").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "001.png")
    with pytest.raises(CameraError, match="001.png: found a pipe"):
        read_transforms(file)
