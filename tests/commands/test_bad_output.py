"""Outputs that cannot be written, at every command that writes: one line, exit code 2, nothing lost, nothing half-written."""
import numpy as np
import pytest
from PIL import Image
from support.badfiles import object_on_white
from support.commands import ending, load_tool, sample, tree

import simple_video_sample
import train
from sgm.common.cli import exit_code
from sgm.views import folder
from sgm.views.cameras import Orbit

demo, evaluate, held_back, render_clips, render_orbits = (
    load_tool(name) for name in ("demo", "evaluate", "held_back", "render_clips", "render_orbits"))


def test_a_file_where_the_output_shall_be(tmp_path, photo, training, capsys):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    (tmp_path / "tri.obj").write_text("v 0 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\n")
    for k in range(2):
        object_on_white().save(tmp_path / f"{k:03d}.png")
    before = tree(tmp_path)
    procedural = ["procedural", "--count", "1", "--size", "16", "--workers", "1", "--out"]
    for output in (taken, taken / "below", taken / "deep" / "below"):
        for run, argv in (
                (simple_video_sample.run, sample(photo, output)), (held_back.run, ["--output", output]),
                (lambda argv: exit_code("demo.py", demo.main, argv), ["--output", output]),
                (render_clips.run, ["--count", "1", "--size", "16", "--workers", "1", "--out", output]),
                (render_orbits.run, [*procedural, output]),
                (render_orbits.run, [*procedural, output, "--pack"]),
                (render_orbits.run, ["meshes", tmp_path / "tri.obj", "--size", "16", "--workers", "1", "--out", output]),
                (evaluate.run, ["views", tmp_path, tmp_path, "--csv", output / "a.csv"]),
                (evaluate.run, ["views", tmp_path, tmp_path, "--sheet", output / "a.png"]),
                (train.run, [*training, "--output", output])):
            code, said = ending(run, argv, capsys)
            assert code == 2 and "taken" in said and "; " in said, argv
    code, said = ending(evaluate.run, ["views", tmp_path, tmp_path, "--csv", tmp_path], capsys)
    assert code == 2 and "is a folder, expected a file to write" in said
    assert tree(tmp_path) == before


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path, photo, quick, capsys):
    mine = tmp_path / "out" / "cup_23"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        code, said = ending(simple_video_sample.run, sample(photo, tmp_path / "out", *more), capsys)
        assert code == 2 and f"{mine}: found thesis.txt, expected a views folder or nothing" in said
    mesh = tmp_path / "models" / "duck" / "duck.obj"
    mesh.parent.mkdir(parents=True)
    mesh.write_text("v 0 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\n")
    argv = ["meshes", str(mesh), "--out", str(tmp_path / "models"), "--size", "16", "--workers", "1"]
    assert render_orbits.run(argv) == 2
    assert "duck is in the way (duck.obj); give another --out" in capsys.readouterr().err
    assert mesh.exists() and (mine / "thesis.txt").exists()


def some_views():
    orbit, frames = Orbit.static(num_frames=3), np.full((3, 32, 32, 3), 200, np.uint8)
    return folder.Views(frames, np.full((32, 32, 4), 255, np.uint8), orbit, {"seed": 1})


def test_a_write_that_fails_leaves_the_earlier_views(tmp_path, monkeypatch):
    some_views().save(tmp_path / "a", formats=())
    before, rename = tree(tmp_path), folder.os.replace

    def full(*_, **__):
        raise OSError("no")

    def last_fails(source, target):
        (full if target == tmp_path / "a" and source.name == ".a.partial" else rename)(source, target)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(folder.os, "replace", last_fails)
        some_views().save(tmp_path / "a", formats=(), overwrite=True)
    assert tree(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / ".a.old")        # as a kill between the two renames leaves it
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(folder, "write_transforms", full)
        some_views().save(tmp_path / "a", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("ffmpeg", ["/nonexistent", "/bin/false"])
def test_without_a_video_there_is_a_gif_and_a_word(ffmpeg, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", ffmpeg)
    written = some_views().save(tmp_path / "a", formats=("mp4",))
    assert (written / "views.gif").exists() and not (written / "views.mp4").exists() and folder.is_finished(written)
    assert "views.mp4: cannot be written" in caplog.text and "views.gif holds the frames" in caplog.text
    assert Image.open(written / "views.gif").size == (32, 32)
