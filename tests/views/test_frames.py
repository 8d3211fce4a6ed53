"""Frames without cameras, and the cameras of the programs that drew them, on rendered truth."""
import json

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from sgm.common.errors import InputError
from sgm.reconstruct.hull import elevation
from sgm.reconstruct.views_reader import read_views
from sgm.render.procedural import make_object
from sgm.render.zbuffer import SOFT, render_views
from sgm.views.cameras import Orbit, camera_to_world
from sgm.views.folder import is_elevation_unknown
from sgm.views.frames import RIGS, write_views
from sgm.views.media import contact_sheet

SIDE = 64
# as the programs say it, written down a second time: azimuths, elevations, field of view, distance
TRUTH = {
    "zero123plus": ([30, 90, 150, 210, 270, 330], [20, -10] * 3, 30, 2.3),
    "zero123plus-v1.1": ([30, 90, 150, 210, 270, 330], [30, -20] * 3, 49.134, 1.5),
    "syncdreamer": (22.5 * np.arange(16), [30] * 16, 49.134, 1.5),
}


@pytest.fixture(scope="module")
def rendered():
    """pictures(name): what the program `name` would draw of one object, RGBA (T, SIDE, SIDE, 4)."""
    found = {}

    def pictures(name):
        if name not in found:
            azimuths, elevations, fov, distance = TRUTH[name]
            found[name] = render_views(make_object(5), camera_to_world(azimuths, elevations, distance), SIDE, fov,
                                       lighting=SOFT)
        return found[name]
    return pictures


def folder_of(pictures, folder):
    folder.mkdir()
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"view_{k}.png")
    return folder


def covered(source, folder, name):
    return elevation.coverage(read_views(write_views(source, folder, name)))


@pytest.mark.parametrize("name", TRUTH)
def test_cameras_of_a_program_explain_its_views(rendered, tmp_path, name):
    source = folder_of(rendered(name), tmp_path / "frames")
    (tmp_path / "frames" / "input.png").write_bytes((source / "view_0.png").read_bytes())       # without a number
    right = covered(source, tmp_path / "views", name)
    assert json.loads((tmp_path / "views" / "run.json").read_text())["cameras"] == name
    wrong = max(covered(source, tmp_path / "views", other) for other in RIGS
                if other != name and RIGS[other].count in (None, len(rendered(name))))
    assert right >= 0.97 and wrong <= right - 0.02


@pytest.mark.parametrize("name", TRUTH)
def test_one_picture_of_all_views_is_taken_apart(rendered, tmp_path, name):
    rows, columns = RIGS[name].sheet
    sheet = contact_sheet(rendered(name), columns)
    assert sheet.size == (columns * SIDE, rows * SIDE)
    sheet.save(tmp_path / "sheet.png")
    views = read_views(write_views(tmp_path / "sheet.png", tmp_path / "views", name))
    masks = rendered(name)[..., 3] > 127
    assert (views.mask > 0.5).shape == masks.shape and ((views.mask > 0.5) != masks).mean() < 0.01


@pytest.fixture
def turn(tmp_path):
    """A folder of nine frames on white that is not exact, of a static orbit at 25 degrees."""
    rgba = render_views(make_object(5), Orbit.static(25, 9).poses(2.0), SIDE, 33.8, lighting=SOFT).astype(float)
    white = np.random.RandomState(0).uniform(249, 254, rgba.shape[:3])[..., None]
    flat = rgba[..., :3] * rgba[..., 3:] / 255 + white * (1 - rgba[..., 3:] / 255)
    return folder_of(np.round(flat).astype(np.uint8), tmp_path / "turn"), np.round(flat).astype(np.uint8), rgba[..., 3] > 127


def test_a_static_orbit_of_unknown_elevation(turn, tmp_path):
    folder, _, masks = turn
    views = read_views(write_views(folder, tmp_path / "views", "static"))
    assert is_elevation_unknown(tmp_path / "views") and not is_elevation_unknown(folder)
    np.testing.assert_allclose(views.c2w, Orbit.static(10, 9).poses(), atol=1e-12)
    assert ((views.mask > 0.5) != masks).mean() < 0.01


@pytest.mark.parametrize("name, options", [("turn.gif", {"loop": 0}), ("turn.mp4", {"plugin": "FFMPEG", "fps": 7})])
def test_videos_and_gifs(turn, tmp_path, name, options):
    iio.imwrite(tmp_path / name, turn[1], **options)
    views = read_views(write_views(tmp_path / name, tmp_path / "views", "static"))
    assert len(views) == 9 and ((views.mask > 0.5) != turn[2]).mean() < 0.02


def test_another_field_of_view(turn, tmp_path):
    """The object appears as large as before: cameras stand nearer or farther away."""
    views = read_views(write_views(turn[0], tmp_path / "views", "static", 20))
    assert views.fl_x == pytest.approx(SIDE / 2 / np.tan(np.radians(10)))
    assert views.fl_x / np.linalg.norm(views.c2w[0, :3, 3]) == pytest.approx(SIDE / 2 / np.tan(np.radians(16.9)) / 2)


def test_order_is_that_of_the_numbers(tmp_path):
    for k in (1, 2, 10):
        Image.new("RGB", (20, 20), (k, 0, 0)).save(tmp_path / f"frame{k}.png")
    folder = write_views(tmp_path, tmp_path / "out" / "views", "static")
    assert [np.asarray(Image.open(folder / f"{k:03d}.png"))[0, 0, 0] for k in range(3)] == [1, 2, 10]


def test_frames_that_do_not_fit_are_refused(turn, tmp_path):
    folder = turn[0]
    for name, message in (("zero123plus", "turn: found 9 pictures, expected the 6 views .* 3 rows of 2"),
                          ("syncdreamer", "found 9 pictures, expected the 16 views")):
        with pytest.raises(InputError, match=message):
            write_views(folder, tmp_path / "views", name)
    with pytest.raises(InputError, match="view_1.png: found one picture, expected frames"):
        write_views(folder / "view_1.png", tmp_path / "views", "static")
    with pytest.raises(InputError, match="found 64 x 64 pixels, expected 3 rows of 2 square views"):
        write_views(folder / "view_1.png", tmp_path / "views", "zero123plus")
    Image.new("RGB", (32, 64)).save(folder / "view_3.png")
    with pytest.raises(InputError, match="view 3 has 32 x 64 pixels, the first 64 x 64"):
        write_views(folder, tmp_path / "views", "static")
    (folder / "transforms.json").write_text("{}")
    with pytest.raises(InputError, match="leave that out"):
        write_views(folder, tmp_path / "views", "static")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="broken.mp4: cannot be read as a video"):
        write_views(tmp_path / "broken.mp4", tmp_path / "views", "static")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no image in this folder"):
        write_views(tmp_path / "empty", tmp_path / "views", "static")
    assert not (tmp_path / "views").exists()
