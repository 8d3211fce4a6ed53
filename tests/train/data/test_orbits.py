"""Orbit folders and Objaverse renders: which views, seen from which one, on which background; what cannot be used."""
import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image
from support.making_data import SIZE, picture, small_spec, write_orbit

from sgm.train.data import DataError, DataSettings, Memo, read_clips
from sgm.train.data.examples import choose_views, sinusoids, view_order
from sgm.train.data.orbits import read_ids, read_orbit, read_render
from sgm.views.cameras import Orbit, camera_to_world

# --- which views ------------------------------------------------------------------------------------------------

def test_all_views_end_on_the_condition():
    azimuths = np.array([90.0, 180, 270, 0])
    rng = np.random.default_rng(0)
    assert choose_views(rng, azimuths, 4, 3).tolist() == [0, 1, 2, 3]
    assert choose_views(rng, azimuths, 4, 1).tolist() == [2, 3, 0, 1]
    assert choose_views(rng, azimuths[::-1], 4, 3).tolist() == [2, 1, 0, 3]     # an orbit that was filmed clockwise
    uneven = np.array([350.0, 10, 200, 100])
    assert choose_views(rng, uneven, 4, 1).tolist() == [3, 2, 0, 1]


def test_21_of_84():
    """Every fourth view from the condition on; any of the 84 can be it."""
    azimuths = Orbit.dynamic(3, 10, 84).azimuths_deg
    for condition in range(84):
        views = choose_views(np.random.default_rng(0), azimuths, 21, condition)
        assert views[-1] == condition and ((views - condition) % 4 == 0).all() and len(set(views)) == 21
        relative = (azimuths[views[:-1]] - azimuths[condition]) % 360
        assert (np.diff(relative) > 0).all()


def test_some_of_scattered_views():
    azimuths = np.random.RandomState(0).uniform(0, 360, 32)
    rng, seen = np.random.default_rng(1), set()
    for _ in range(60):
        views = choose_views(rng, azimuths, 5, 7)
        assert views[-1] == 7 and len(set(views)) == 5
        assert (np.diff((azimuths[views[:-1]] - azimuths[7]) % 360) > 0).all()
        seen.update(views)
    assert seen == set(range(32))


def test_walk():
    rng, orders = np.random.default_rng(0), set()
    assert view_order(rng, 5, False).tolist() == [0, 1, 2, 3, 4]
    for _ in range(200):
        orders.add(tuple(view_order(rng, 3, True).tolist()))
    assert orders == {(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (2, 1, 0)}


def test_sinusoids():
    values = sinusoids(np.array([0.5, 3.0]), 4)
    np.testing.assert_allclose(values, [[np.cos(x), np.cos(x / 100), np.sin(x), np.sin(x / 100)] for x in (0.5, 3.0)],
                               atol=1e-6)


# --- views folders ----------------------------------------------------------------------------------------------

def test_posed_views_are_not_turned_by_exif(tmp_path):
    folder = write_orbit(tmp_path / "cup", Orbit.static(10, 3))
    plain = read_orbit(folder, SIZE).frames()
    exif = Image.Exif()
    exif[0x0112] = 6
    for k in range(3):
        Image.open(folder / f"{k:03d}.png").save(folder / f"{k:03d}.png", exif=exif)
    np.testing.assert_array_equal(read_orbit(folder, SIZE).frames(), plain)


def test_views_and_cameras(tmp_path):
    orbit = Orbit.dynamic(1, 5, 6)
    clip = read_orbit(write_orbit(tmp_path / "cup", orbit), SIZE)
    assert clip.num_views == 6
    np.testing.assert_allclose(clip.angles[0], orbit.azimuths_deg, atol=1e-9)
    np.testing.assert_allclose(clip.angles[1], orbit.elevations_deg, atol=1e-9)
    frames = clip.frames([4, 1])
    assert frames.shape == (2, 3, SIZE, SIZE) and frames.dtype == np.float32
    rgba = picture(4).astype(float)
    alpha = rgba[..., 3:] / 255
    on_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs((frames[0].transpose(1, 2, 0) + 1) * 127.5 - on_white).max() <= 1
    assert np.abs(clip.frames()[4] - frames[0]).max() == 0


def settings(*data, **more):
    return DataSettings(data=[str(path) for path in data], cache=False, **more)


def test_backgrounds(tmp_path):
    """A colour of its own for each clip, drawn from its name; views of a clip share it; the object keeps its colour."""
    for name in "ab":
        write_orbit(tmp_path / name)
    spec = small_spec()
    (clips, _), (held, _) = read_clips(settings(tmp_path, background="both"), spec, Memo())
    assert len(clips) == 4 and held is None
    colours = []
    for k, clip in enumerate(clips.items):
        frames = np.round((clip.frames() + 1) * 127.5)
        corners = {tuple(corner) for corner in frames[:, :, 0, 0]}
        assert len(corners) == 1
        colours.append(corners.pop())
        middle = frames[0, :, SIZE // 2, SIZE // 2]
        assert np.abs(middle - picture(0)[SIZE // 2, SIZE // 2, :3]).max() <= 1, k
    assert colours[0] == colours[2] == (255, 255, 255) and len(set(colours)) == 3
    (again, _), _ = read_clips(settings(tmp_path, background="random"), spec, Memo())
    assert [clip.background for clip in again.items] == [tuple(map(int, colours[1])), tuple(map(int, colours[3]))]


def test_larger_views_are_made_smaller(tmp_path):
    clip = read_orbit(write_orbit(tmp_path / "cup", size=2 * SIZE), SIZE)
    frames = clip.frames([0])
    assert frames.shape == (1, 3, SIZE, SIZE)
    colour = picture(0)[0, 0, :3]
    middle = (frames[0, :, SIZE // 2, SIZE // 2] + 1) * 127.5
    assert np.abs(middle - colour).max() <= 2       # and no dark rim of the transparent pixels' colour


def edit(key, change):
    """A damage of transforms.json."""
    def damage(folder):
        path = folder / "transforms.json"
        data = json.loads(path.read_text())
        data[key] = change(data[key])
        path.write_text(json.dumps(data))
    return damage


def sized(width, height):
    """transforms.json says another size; focal lengths are in pixels alone."""
    values = {"w": width, "h": height, "camera_angle_x": None, "camera_angle_y": None}
    return lambda folder: [edit(key, lambda _, value=value: value)(folder) for key, value in values.items()]


def turned(frames, matrix):
    """The second camera's rotation times `matrix`."""
    pose = np.array(frames[1]["transform_matrix"])
    pose[:3, :3] = pose[:3, :3] @ matrix
    frames[1]["transform_matrix"] = pose.tolist()
    return frames


def about(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis]


def swap_poses(frames):
    first, second = (frame["transform_matrix"] for frame in frames[:2])
    frames[0]["transform_matrix"], frames[1]["transform_matrix"] = second, first
    return frames


DAMAGES = {
    "no transforms.json": (lambda f: (f / "transforms.json").unlink(), "transforms.json"),
    "no JSON": (lambda f: (f / "transforms.json").write_text("{"), "not JSON"),
    "single view": (edit("frames", lambda frames: frames[:1]), "single view"),
    "no view": (edit("frames", lambda frames: []), "frames"),
    "too few views": (edit("frames", lambda frames: frames[:3]), "3 views, expected at least the model's 4"),
    "another size": (sized(64, 32), "64 x 32 pixels, expected a square"),
    "too small": (sized(16, 16), "16 x 16 pixels, expected a square"),
    "two sources of one number": (edit("fl_x", lambda fl: 2 * fl), "camera_angle_x is 0.589921, a focal length of"),
    "a fisheye": (edit("camera_model", lambda model: "OPENCV_FISHEYE"), "one that is no pinhole"),
    "looks away": (edit("frames", lambda frames: turned(frames, about("x", 20))), "camera 1 looks past the origin by 20.0"),
    "rolled": (edit("frames", lambda frames: turned(frames, about("z", 30))), "camera 1 is rolled by"),
    "poses swapped": (edit("frames", swap_poses), "frames[0] says azimuth_deg 90.0, its transform_matrix 180.0"),
    "view missing": (lambda f: (f / "002.png").unlink(), "002.png"),
    "first view of another size": (lambda f: Image.new("RGBA", (40, 40)).save(f / "000.png"), "40 x 40"),
    "first view no image": (lambda f: (f / "000.png").write_bytes(b"junk"), "000.png"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_cannot_be_used(damage, tmp_path):
    """Given alone it stops the run with one line that says why."""
    folder = write_orbit(tmp_path / "cup")
    change, said = DAMAGES[damage]
    change(folder)
    with pytest.raises(DataError) as error:
        read_clips(settings(folder), small_spec(), Memo())
    assert "\n" not in str(error.value) and said in str(error.value) and "cup" in str(error.value), error.value


@pytest.mark.parametrize("damage, said", [
    (lambda f: Image.fromarray(picture(0, 40)).save(f / "001.png"), "40 x 40"),
    (lambda f: (f / "001.png").write_bytes((f / "001.png").read_bytes()[:60]), "001.png"),
    (lambda f: Image.new("RGBA", (SIZE, SIZE)).save(f / "001.png"), "transparent")])
def test_damage_that_shows_when_a_view_is_read(damage, said, tmp_path):
    folder = write_orbit(tmp_path / "cup")
    damage(folder)
    clip = read_orbit(folder, SIZE)
    assert clip.frames([0]).shape == (1, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match=said):
        clip.frames()


def test_opaque_views_have_no_other_background(tmp_path):
    folder = write_orbit(tmp_path / "cup")
    for k in range(4):
        Image.fromarray(picture(k)).convert("RGB").save(folder / f"{k:03d}.png")
    (clips, _), _ = read_clips(settings(folder, background="random"), small_spec(), Memo())
    with pytest.raises(DataError, match="is opaque"):
        clips.frames(0)


def test_one_bad_in_twenty_is_left_out_and_told(tmp_path, caplog):
    for k in range(21):
        write_orbit(tmp_path / "data" / f"o{k:02d}", seed=k)
    (tmp_path / "data" / "o03" / "transforms.json").unlink()
    with caplog.at_level(logging.WARNING, "sgm"):
        (clips, skipped), _ = read_clips(settings(tmp_path / "data"), small_spec(), Memo())
    assert len(clips) == 20 and len(skipped.reasons) == 1
    assert len(caplog.messages) == 1 and "o03" in caplog.messages[0] and "\n" not in caplog.messages[0]
    (tmp_path / "data" / "o05" / "000.png").unlink()
    with pytest.raises(DataError, match="2 of 21 clips cannot be used, more than 5%.*o03.*o05"):
        read_clips(settings(tmp_path / "data"), small_spec(), Memo())


# --- Objaverse renders ------------------------------------------------------------------------------------------

AZIMUTHS, ELEVATIONS = np.array([10.0, 300, 120, 45, 222]), np.array([-5.0, 20, 70, 0, 33])


def world_to_camera(opencv):
    """(5, 3, 4) of cameras at AZIMUTHS, ELEVATIONS, at different distances; axes of OpenCV or of Blender."""
    pose = camera_to_world(AZIMUTHS, ELEVATIONS, np.linspace(1.5, 2.2, 5))
    if opencv:
        pose = pose @ np.diag([1.0, -1, -1, 1])
    return np.linalg.inv(pose)[:, :3]


def write_render(folder, poses, pickled=False):
    folder.mkdir(parents=True)
    for k in range(len(poses)):
        Image.fromarray(picture(k)).save(folder / f"{k:03d}.png")
        Image.fromarray(picture(k)).save(folder / f"{k:03d}_normal.png")        # InstantMesh renders these too
    if pickled:
        intrinsics = np.eye(3)
        (folder / "meta.pkl").write_bytes(pickle.dumps([intrinsics, AZIMUTHS, ELEVATIONS, np.ones(5), poses]))
    else:
        np.savez(folder / "cameras.npz", cam_poses=poses)
    return folder


@pytest.mark.parametrize("opencv", [True, False])
@pytest.mark.parametrize("pickled", [True, False])
def test_renders(opencv, pickled, tmp_path):
    clip = read_render(write_render(tmp_path / "id", world_to_camera(opencv), pickled), SIZE)
    np.testing.assert_allclose(clip.angles[0], AZIMUTHS, atol=1e-6)
    np.testing.assert_allclose(clip.angles[1], ELEVATIONS, atol=1e-6)
    assert [file.name for file in clip.files] == [f"{k:03d}.png" for k in range(5)]


@pytest.mark.parametrize("place", ["", "rendering_random_32views", "input"])
@pytest.mark.parametrize("form", [lambda ids: ids, lambda ids: {"good_objs": ids}])
def test_list_of_ids(place, form, tmp_path):
    for name in ("a1/x", "b2/y", "c3/z"):
        write_render(tmp_path / place / name, world_to_camera(True))
    (tmp_path / "valid_paths.json").write_text(json.dumps(form(["b2/y", "a1/x"])))
    assert read_ids(tmp_path / "valid_paths.json") == [tmp_path / place / "b2/y", tmp_path / place / "a1/x"]
    (clips, _), _ = read_clips(settings(tmp_path / "valid_paths.json"), small_spec(), Memo())
    assert [clip.name for clip in clips.items] == [str(tmp_path / place / name) for name in ("b2/y", "a1/x")]


class Bomb:
    """A pickle that would run a program."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        import os
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("damage, said", [
    (lambda f: (f / "cameras.npz").unlink(), "neither cameras.npz nor meta.pkl"),
    (lambda f: (f / "004.png").unlink(), "4 views .* and 5 poses"),
    (lambda f: (f / "cameras.npz").write_bytes(b"junk"), "cameras.npz: cannot be read"),
    (lambda f: np.savez(f / "cameras.npz", poses=np.zeros(3)), "cam_poses"),
    (lambda f: np.savez(f / "cameras.npz", cam_poses=np.zeros((5, 3))), "shape 5 x 3"),
    (lambda f: np.savez(f / "cameras.npz", cam_poses=np.full((5, 3, 4), np.nan)), "finite"),
    (lambda f: np.savez(f / "cameras.npz", cam_poses=np.zeros((5, 3, 4))), "not a rotation"),
    (lambda f: np.savez(f / "cameras.npz", cam_poses=np.tile(np.diag([1, 1, -1, 1])[:3], (5, 1, 1))), "not a rotation"),
    (lambda f: np.savez(f / "cameras.npz", cam_poses=np.tile(np.eye(4)[:3], (5, 1, 1)) + [0, 0, 0, 1]),
     "looks past the origin")])
def test_renders_that_cannot_be_used(damage, said, tmp_path):
    folder = write_render(tmp_path / "id", world_to_camera(True))
    damage(folder)
    with pytest.raises(DataError, match=said) as error:
        read_render(folder, SIZE)
    assert "\n" not in str(error.value)


def crafted():
    """A pickle of an array whose type has a state that crashes numpy."""
    state = b"(I3\nV|\nNNNI-1\nI-1\nI63\nt"
    return (b"(lp0\nI0\naI0\naI0\naI0\nacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
            b"(I1\n(I5\ntcnumpy\ndtype\n(VO8\nI0\nI1\ntR" + state + b"bI00\nVxxxxxxxx\ntba.")


@pytest.mark.parametrize("content, said", [
    (crafted(), "type 'O8'"), (b"\x80\x03]q\0(" + b"h\0" * 100_000 + b"e.", "no list of 3 x 4 matrices"),
    (pickle.dumps([0] * 4 + [np.eye(4)])[:-9], "is damaged"), (b"", "is damaged"),
    (pickle.dumps([0] * 4 + [np.array([None, 1])]), "type 'O8'"), (pickle.dumps([0] * 4 + [np.array(["a"])]), "type 'U1'"),
    (pickle.dumps([0] * 4 + [np.eye(4)], 2).replace(b"K\x04K\x04", b"K\x04K\x44"), "of shape"),
    (pickle.dumps(range(5)), "holds a builtins.range")])
def test_pickles_that_are_not_plain(content, said, tmp_path):
    folder = write_render(tmp_path / "id", world_to_camera(True), pickled=True)
    (folder / "meta.pkl").write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_render(folder, SIZE)
    assert "meta.pkl" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", [np.asarray, lambda p: p.astype(">f4"), np.asfortranarray, np.ndarray.tolist, list])
def test_pickled_poses_in_every_form(protocol, form, tmp_path):
    poses = world_to_camera(True).astype(np.float32).astype(float)
    folder = write_render(tmp_path / "id", poses, pickled=True)
    content = [np.eye(3), {"a": (1, None, True)}, np.float64(2), "text", form(poses)]
    (folder / "meta.pkl").write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_allclose(read_render(folder, SIZE).angles[0], AZIMUTHS, atol=1e-4)


def test_a_pickle_runs_nothing(tmp_path):
    folder = write_render(tmp_path / "id", world_to_camera(True), pickled=True)
    (folder / "meta.pkl").write_bytes(pickle.dumps([0, 0, 0, 0, Bomb(tmp_path / "ran")]))
    with pytest.raises(DataError, match="mkdir"):
        read_render(folder, SIZE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text, said", [("{", "JSON"), ("[]", "list of object ids"), ('{"a": 1}', "list of object ids"),
                                        ('["nowhere"]', "no folder of that name"), ("[1]", "list of object ids")])
def test_lists_that_cannot_be_used(text, said, tmp_path):
    (tmp_path / "ids.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_ids(tmp_path / "ids.json")
