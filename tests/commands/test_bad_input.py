"""Wrong images, weights and configurations, at every command that takes them: one line that names the file, exit code 2 (1
where one of several inputs fails and the rest go on), nothing written."""
import logging

import pytest
from mindspore import Tensor
from PIL import Image
from support.badfiles import (
    BAD_CONFIGS,
    bad_images,
    bad_weights,
    encoded,
    object_on_white,
    with_nan,
)
from support.commands import ending, load_tool, sample, tree

import simple_video_sample
import train
from sgm.diffusion.engine import Engine
from sgm.diffusion.pipeline import EMBEDDED
from sgm.geometry.mesh_reader import load_mesh

evaluate, held_back = load_tool("evaluate"), load_tool("held_back")
GOOD = EMBEDDED[1].read_bytes()


# --- images ----------------------------------------------------------------------------------------------------------

def test_bad_images_of_a_folder_are_each_named_and_the_rest_is_made(tmp_path, quick, capsys):
    (tmp_path / "in").mkdir()
    object_on_white().save(tmp_path / "in" / "good.png")
    for name, (content, _) in bad_images().items():
        (tmp_path / "in" / name).write_bytes(content)
    assert simple_video_sample.run([str(word) for word in sample(tmp_path / "in", tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    for name, (_, expected) in bad_images().items():
        lines = [line for line in said.splitlines() if f"{tmp_path / 'in' / name}: " in line]
        assert len(lines) == 1 and expected in lines[0] and lines[0].count(str(tmp_path / "in" / name)) == 1, (name, lines)
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_23"]


@pytest.mark.parametrize("name", ["zero.png", "bomb.png", "dot.png", "flat.png"])
def test_one_bad_image_is_code_2(name, tmp_path, quick, capsys):
    (tmp_path / name).write_bytes(bad_images()[name][0])
    code, said = ending(simple_video_sample.run, sample(tmp_path / name, tmp_path / "out", "--seeds", "1-3"), capsys)
    assert code == 2 and bad_images()[name][1] in said
    assert tree(tmp_path) == {name: bad_images()[name][0]}


@pytest.mark.parametrize("name", ["zero.png", "cut.png", "corrupt.png", "bomb.png", "bomb.webp", "comment.png"])
def test_bad_views_are_not_measured(name, tmp_path, capsys):
    for folder in ("truth", "prediction"):
        (tmp_path / folder).mkdir()
        for k in range(3):
            object_on_white().save(tmp_path / folder / f"{k:03d}.png")
    content, expected = bad_images()[name]
    (tmp_path / "prediction" / "001.png").write_bytes(content)
    argv = ["views", tmp_path / "prediction", tmp_path / "truth", "--csv", tmp_path / "a.csv"]
    code, said = ending(evaluate.run, argv, capsys)
    assert code == 2 and f"{tmp_path}/prediction/001.png: " in said and expected in said
    assert not (tmp_path / "a.csv").exists()


def test_a_folder_without_images(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").touch()
    code, said = ending(simple_video_sample.run, sample(tmp_path / "in", tmp_path / "out"), capsys)
    assert code == 2 and f"{tmp_path}/in: no image in this folder; expected files ending in .png" in said


def test_the_limit_of_pixels_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        simple_video_sample.run(["--help"])
    assert "at most 64 megapixels" in " ".join(capsys.readouterr().out.split())


def test_two_images_of_one_name_become_two_folders(tmp_path, quick, capsys):
    for name in ("cup.png", "cup.jpg", "mug.png"):
        object_on_white().save(tmp_path / name)
    assert simple_video_sample.run([str(word) for word in sample(tmp_path, tmp_path / "out")]) == 0
    assert "2 of 3: cup.png, seed 23: " in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cup.jpg_23", "cup.png_23", "mug_23"]


def test_a_name_that_is_no_text_and_one_that_is_too_long(tmp_path, quick, capfdbinary, monkeypatch):
    # pytest-xdist cannot send a captured line that holds such a name
    monkeypatch.setattr(logging.getLogger("sgm"), "propagate", False)
    for name in (b"cup\xff\n.png", b"x" * 250 + b".png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        with open(bytes(tmp_path / "in") + b"/" + name, "wb") as file:
            file.write(encoded(object_on_white()))
    assert simple_video_sample.run([str(word) for word in sample(tmp_path / "in", tmp_path / "out")]) == 1
    assert [bytes(path.name, "utf-8", "surrogateescape") for path in (tmp_path / "out").iterdir()] == [b"cup\xff\n_23"]
    assert b"File name too long; give a shorter name" in capfdbinary.readouterr().err


def test_a_texture_of_too_many_pixels(tmp_path):
    (tmp_path / "t.png").write_bytes(encoded(Image.new("1", (8001, 8001))))
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd t.png\n")
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n")
    with pytest.raises(ValueError, match="a.obj: texture .*t.png: found 64016001 pixels, expected at most 64000000"):
        load_mesh(tmp_path / "a.obj")


# --- weights ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("command", [simple_video_sample, held_back], ids=lambda module: module.__name__)
def test_bad_weights(command, tmp_path, photo, capsys):
    for name, content, expected in bad_weights(GOOD, tmp_path / "touched"):
        path = tmp_path / name
        path.write_bytes(content)
        flags = ["--config", "sv3d_tiny", "--ckpt", path, "--output", tmp_path / "out"]
        code, said = ending(command.run, flags + (["--image", photo] if command is simple_video_sample else []), capsys)
        assert code == 2 and f"{path}: " in said and expected in said, name
        path.unlink()
    assert list(tmp_path.iterdir()) == [photo]      # no pickle was loaded, nothing was written


def test_bad_weights_to_train_from(tmp_path, training, capsys):
    for name, content, _ in bad_weights(GOOD, tmp_path / "touched"):
        if name in ("cut_data.safetensors", "pickle2.ckpt", "none.safetensors"):
            (tmp_path / name).write_bytes(content)
            argv = [*training, "--output", tmp_path / "run", "--init", tmp_path / name]
            code, said = ending(train.run, argv, capsys)
            assert code == 2 and f"{tmp_path / name}: " in said
    assert not (tmp_path / "touched").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("key, stage", [
    ("conditioner.embedders.1.encoder.quant_conv.bias", "condition (concat)"),
    ("model.diffusion_model.out.2.bias", "sample"),
    ("first_stage_model.decoder.conv_out.bias", "decode")])
def test_nan_among_the_weights_is_named_by_its_key(key, stage, tmp_path, photo, monkeypatch, capsys):
    if stage == "decode":       # what comes before it takes time and is not looked at
        monkeypatch.setattr(Engine, "sample", lambda self, noise, *_: Tensor(noise))
    path = tmp_path / "nan.safetensors"
    path.write_bytes(with_nan(GOOD, key))
    flags = sample(photo, tmp_path / "out", "--steps", "1", "--mode", "pynative", "--num-frames", "1")
    assert simple_video_sample.run([*map(str, flags), "--config", "sv3d_tiny", "--ckpt", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{path}: {key}: found 1 of " in said and "NaN" in said and f"(noticed in stage {stage})" in said
    assert tree(tmp_path / "out") == {}


# --- configurations --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_configurations(name, tmp_path, photo, capsys):
    path, out = tmp_path / name, tmp_path / "out"
    for run, argv, size in (
            (simple_video_sample.run, [*sample(photo, out), "--config", path, "--ckpt", EMBEDDED[1]], "num_frames"),
            (held_back.run, ["--config", path, "--output", out], "num_frames"),
            (train.run, ["--model_cfg", path, "--train_cfg", "vae_tiny", "--output", out], "num_frames"),
            (train.run, ["--model_cfg", "sv3d_tiny", "--train_cfg", path, "--output", out], "log_every")):
        text, expected = (part.replace("SIZE", size) for part in BAD_CONFIGS[name])
        path.write_text(text)
        code, said = ending(run, argv, capsys)
        assert code == 2 and f"{path}: " in said and expected in said, argv
    assert not out.exists()
