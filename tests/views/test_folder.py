"""The views folder: what saving replaces, what stays, what is refused, and what run.json says differs."""
import json

import numpy as np
import pytest
from support.commands import tree

from sgm.common.errors import of_command
from sgm.views import folder
from sgm.views.cameras import Orbit
from sgm.views.folder import Views, ViewsError, check_replaceable, check_same, is_finished
from sgm.views.images import ImageError


def views(count=3, level=200, **run):
    frames = np.full((count, 16, 16, 3), level, np.uint8)
    return Views(frames, np.full((16, 16, 4), 255, np.uint8), Orbit.static(num_frames=count), {"seed": 1, **run})


@pytest.fixture
def saved(tmp_path):
    """A views folder of three views with a mesh and files of the user in it."""
    place = views().save(tmp_path / "cup", formats=("png",))
    (place / "mesh").mkdir()
    for name in ("mesh/mesh.glb", "mesh.glb", "fitted.png", "thesis.txt", "7.png", "100.png", "retouched.png"):
        (place / name).write_text(name)
    return place


MINE = {name: name.encode() for name in ("mesh/mesh.glb", "mesh.glb", "fitted.png", "thesis.txt", "7.png", "100.png", "retouched.png")}


def mine(place):
    return {name: content for name, content in tree(place).items() if name in MINE}


def test_views_are_not_replaced_unless_asked(saved, tmp_path):
    before = tree(tmp_path)
    with pytest.raises(ViewsError, match="cup: holds views already; overwrite=True replaces them, or give another folder"):
        views().save(saved)
    with of_command(), pytest.raises(ViewsError, match="; --overwrite replaces them"):
        views().save(saved)
    assert tree(tmp_path) == before


def test_only_our_own_files_are_replaced(saved, tmp_path, caplog):
    views(2, seed=2).save(saved, formats=(), overwrite=True)
    assert mine(saved) == MINE
    assert set(tree(saved)) == {"000.png", "001.png", "input.png", "transforms.json", "run.json", *MINE}
    assert json.loads((saved / "run.json").read_text())["seed"] == 2
    assert "kept what else is in it (100.png, 7.png, fitted.png, mesh, mesh.glb); a mesh in it is still" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["cup"]


def test_a_picture_of_the_user_at_a_new_views_place_stops_it(saved, tmp_path):
    (saved / "003.png").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(ViewsError, match="003.png: is not of the views, and would be replaced; move it"):
        views(4).save(saved, overwrite=True)
    assert tree(tmp_path) == before


def test_folders_of_an_earlier_version_list_no_files(saved):
    record = json.loads((saved / "run.json").read_text())
    del record["files"]
    (saved / "run.json").write_text(json.dumps(record))
    views(2).save(saved, formats=(), overwrite=True)
    assert mine(saved) == {name: text for name, text in MINE.items() if name != "100.png"}     # as ours are called
    assert not (saved / "002.png").exists()


@pytest.mark.parametrize("names", [["000.png", "transforms.json"], ["thesis.txt"], ["mesh/mesh.glb"]])
def test_what_is_no_views_folder_is_never_written_to(tmp_path, names):
    """Also rendered views, which have no run.json, and whether overwriting is asked for or not."""
    for name in names:
        (tmp_path / "cup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cup" / name).write_text("mine")
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ViewsError, match="expected a views folder or nothing; move it, or give another folder"):
            views().save(tmp_path / "cup", overwrite=overwrite)
    assert tree(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert is_finished(views().save(tmp_path / "empty", formats=()))


@pytest.mark.parametrize("moved", [False, True])
def test_what_a_killed_run_set_aside_comes_back(saved, tmp_path, moved):
    """Killed before the new views had the folder's name, and before what is the user's was put back."""
    before, new = tree(saved), views(2, seed=2).save(tmp_path / "new", formats=())
    saved.rename(tmp_path / ".cup.old")
    new.rename(saved if moved else tmp_path / ".cup.partial")
    check_replaceable(saved)
    assert mine(saved) == MINE and [path.name for path in tmp_path.iterdir()] == ["cup"]
    assert moved or tree(saved) == before
    assert json.loads((saved / "run.json").read_text())["seed"] == (2 if moved else 1)


def test_the_video_has_the_frames_per_second_of_the_views(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(folder, "write_gif", lambda path, frames, fps: made.append(fps))
    views().save(tmp_path / "a", formats=("gif",))
    half = views()
    half.fps = 12
    half.save(tmp_path / "b", formats=("gif",))
    half.save(tmp_path / "c", formats=("gif",), fps=24)
    assert made == [6, 12, 24]


@pytest.mark.parametrize("options, error, said", [
    ({"formats": ("png", "avi")}, ViewsError, "formats: found 'avi', expected any of mp4, gif, png"),
    ({"fps": 0}, ViewsError, "fps: found 0, expected more than 0"),
    ({"background": "blue"}, ImageError, "^background is 'blue'; expected transparent, white or R,G,B"),
    ({"background": (0, 0, 256)}, ImageError, "^background is '0,0,256'")])
def test_bad_arguments_write_nothing(options, error, said, tmp_path):
    with pytest.raises(error, match=said):
        views().save(tmp_path / "cup", **options)
    assert not list(tmp_path.iterdir())


def test_what_views_were_made_with_is_compared(tmp_path):
    run = {"steps": 50, "orbit": {"elevations_deg": [0.0, 10.0]}, "checkpoint": {"hash": "a"}, "image": {"hash": "b", "cut_out": "c"},
           "versions": {"python": "3.10"}, "stages": {}, "device": "CPU"}
    place = views(**run).save(tmp_path / "cup", formats=())
    now = {**run, "versions": {}, "stages": {"sample": 3}, "device": "Ascend", "image": {"hash": "b"}, "new": 1,
           **folder.output_record("transparent", 6, ())}
    check_same(place, now)                      # what does not change the views, and what no earlier version noted
    with pytest.raises(ViewsError, match=r"cup: its views were made otherwise \(steps 50, now 25; orbit.elevations_deg"
                       r" \[0.0, 10.0\], now \[0.0, 20.0\]; checkpoint.lora None, now 'l'; output.fps 6, now 7\);"
                       " overwrite=True makes it again"):
        check_same(place, {**now, "steps": 25, "orbit": {"elevations_deg": (0.0, 20.0)}, "checkpoint": {"hash": "a", "lora": "l"},
                           **folder.output_record("transparent", 7, ())})
    for damaged in ("{", "{}", "null"):
        (place / "run.json").write_text(damaged)
        with pytest.raises(ViewsError, match="run.json: is damaged, so that nothing says"):
            check_same(place, now)


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_that_lost_a_file_is_not_finished(empty, tmp_path):
    place = views().save(tmp_path / "cup", formats=())
    check_same(place, {})
    (place / "001.png").write_bytes(b"") if empty else (place / "001.png").unlink()
    with pytest.raises(ViewsError, match=f"001.png: is {'empty' if empty else 'missing'}, expected.*overwrite=True makes it"):
        check_same(place, {})
