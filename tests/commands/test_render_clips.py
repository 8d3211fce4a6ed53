"""Short videos that are no orbits: how their camera moves, and what lies in the folder."""
import numpy as np
import pytest
from PIL import Image
from support.commands import ending, load_tool, tree

from sgm.render.video_clips import ROLL, SLIDE, clip_poses
from sgm.train.data.clips import Memo
from sgm.train.data.videos import read_video
from sgm.views.cameras import DISTANCE

render_clips = load_tool("render_clips")


def test_the_camera_slides_and_rolls_but_never_turns_about_the_object():
    poses = clip_poses(np.random.RandomState(3), 5)
    assert poses.shape == (5, 4, 4)
    first = poses[0]
    np.testing.assert_allclose(first[:3, 3], DISTANCE * first[:3, 2], atol=1e-12)         # it looks at the origin
    np.testing.assert_allclose(poses[:, :3, 2], np.tile(first[:3, 2], (5, 1)), atol=1e-12)    # and on along that line
    steps = np.diff(poses[:, :3, 3], axis=0)
    np.testing.assert_allclose(steps, np.tile(steps[0], (4, 1)), atol=1e-12)
    shift = (poses[-1, :3, 3] - first[:3, 3]) @ first[:3, :3]
    assert 0 < np.abs(shift).max() and (np.abs(shift) <= SLIDE).all()
    rolls = [np.degrees(np.arctan2(pose[:3, 0] @ first[:3, 1], pose[:3, 0] @ first[:3, 0])) for pose in poses]
    np.testing.assert_allclose(rolls, np.linspace(0, rolls[-1], 5), atol=1e-9)
    assert 0 < abs(rolls[-1]) <= ROLL


def test_clips_are_made_once_and_read_as_videos(tmp_path, capsys):
    out = tmp_path / "videos"
    argv = ["--count", "2", "--out", str(out), "--size", "16", "--frames", "3", "--workers", "1"]
    assert render_clips.run(argv) == 0
    before = tree(out)
    assert len(before) == 2 * 3
    (out / "0000001" / "002.png").unlink()                      # of a clip that is there; nothing is made again
    assert render_clips.run([*argv[:1], "3", *argv[2:]]) == 0
    assert set(tree(out)) - set(before) == {f"0000002/{k:03d}.png" for k in range(3)}
    frames = read_video(out / "0000000", 3, (16, 16), 1, Memo())[0].frames()
    pixels = np.asarray(Image.open(out / "0000000" / "000.png")).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(frames[0], pixels, atol=1e-6)
    assert pixels[:, 0, 0].min() == 1 and pixels.min() < 0      # an object on white


@pytest.mark.parametrize("flags, expected", [
    ("--count 0", "argument --count: found '0', expected a whole number from 1 to 100000"),
    ("--size 4", "argument --size: found '4'"), ("--frames 1", "argument --frames: found '1'"),
    ("--workers 0", "argument --workers: found '0'")])
def test_bad_flags_of_clips(flags, expected, tmp_path, capsys):
    code, said = ending(render_clips.run, ["--count", "1", "--out", tmp_path / "out", *flags.split()], capsys)
    assert code == 2 and expected in said and not (tmp_path / "out").exists()


def test_clips_of_another_kind_are_not_taken_for_finished(tmp_path, capsys):
    argv = ["--count", "1", "--out", str(tmp_path), "--size", "16", "--frames", "3", "--workers", "1"]
    assert render_clips.run(argv) == 0
    for flags, expected in ((["--size", "24"], "expected 3 of 24 x 24"), (["--frames", "4"], "expected 4 of 16 x 16")):
        code, said = ending(render_clips.run, [*argv, *flags], capsys)
        assert code == 2 and f"{tmp_path}: holds clips of 3 frames of 16 x 16 pixels, {expected}; give another --out" in said
    assert len(tree(tmp_path)) == 3
