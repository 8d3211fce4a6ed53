"""What stands where a file is expected and is none; names that are no text."""
import csv
import os

import numpy as np
import pytest
from PIL import Image
from support.commands import load_tool

from sgm.checkpoints.loading import file_hash
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.opening import open_weights
from sgm.common.errors import InputError
from sgm.config.model_files import load_spec
from sgm.config.reconstruction import load_mesh_spec
from sgm.geometry.mesh_reader import load_mesh
from sgm.reconstruct.views_reader import read_views
from sgm.train.data import Memo, orbits
from sgm.train.data.motion import read_table
from sgm.train.data.packed import load_packed
from sgm.train.data.sources import expand, find
from sgm.train.data.videos import read_video
from sgm.views.images import list_images, load_image
from sgm.views.transforms import read_orbit, read_transforms

render_orbits, evaluate = load_tool("render_orbits"), load_tool("evaluate")
NO_TEXT = os.fsdecode(b"m\xff\xe9")
# what reads a file, and the file's name
READERS = {
    "image": (load_image, "a.png"), "images": (list_images, "a.png"), "mesh": (load_mesh, "a.obj"),
    "video": (lambda path: read_video(path, 2, (16, 16), 1, Memo()), "a.mp4"),
    "checkpoint": (open_checkpoint, "a.safetensors"), "weights": (open_weights, "a.ckpt"), "hash": (file_hash, "a.ckpt"),
    "transforms": (read_transforms, "a.json"), "orbit": (read_orbit, "a.json"), "views": (read_views, "a.json"),
    "model": (lambda path: load_spec(str(path)), "a.yaml"), "mesh settings": (lambda p: load_mesh_spec(str(p)), "a.yaml"),
    "ids": (orbits.read_ids, "a.json"), "data": (lambda path: expand([str(path)], "data"), "a.json")}
# the same of files that a folder is looked through for
IN_FOLDERS = {
    "transforms": (read_transforms, "transforms.json"), "packed": (load_packed, "clips.npy"),
    "packed angles": (load_packed, "azimuths.npy"), "npz": (lambda path: orbits.read_render(path, 16), "cameras.npz"),
    "pkl": (lambda path: orbits.read_render(path, 16), "meta.pkl"), "split": (lambda path: find(path, True), "val.txt"),
    "table": (read_table, "clips.csv")}


def refusal(read, path):
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert message.isprintable() and len(message) <= 2000
    return message


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", READERS)
def test_pipe_in_place_of_a_file(name, tmp_path):
    read, file = READERS[name]
    os.mkfifo(tmp_path / file)
    assert f"{file}: found a pipe, expected a file" in refusal(read, tmp_path / file)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", IN_FOLDERS)
def test_pipe_in_a_folder(name, tmp_path):
    read, file = IN_FOLDERS[name]
    os.mkfifo(tmp_path / file)
    assert f"{file}: found a pipe, expected a file" in refusal(read, tmp_path)


@pytest.mark.parametrize("path", ["no\0name", "x" * 5000])
@pytest.mark.parametrize("name", READERS)
def test_names_that_no_file_can_have(name, path):
    read, file = READERS[name]
    assert "no file can have this name" in refusal(read, path + file[1:]) or name == "data"


def test_missing_texture_stands_in_the_list_of_failures(tmp_path, capsys):
    for name, texture in (("good", "wood.png"), ("bad", "lost.png")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), "red").save(tmp_path / name / "wood.png")
        (tmp_path / name / "a.mtl").write_text(f"newmtl m\nmap_Kd {texture}\n")
        (tmp_path / name / f"{name}.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\n"
                                                     "usemtl m\nf 1/1 2/2 3/3\n")
    flags = ["--out", str(tmp_path / "out"), "--size", "16", "--frames", "2", "--workers", "1", "--supersample", "1"]
    assert render_orbits.run(["meshes", str(tmp_path / "good"), str(tmp_path / "bad"), *flags]) == 1
    assert "1 of 2 orbits; 1 failed" in capsys.readouterr().out
    line, = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert line.startswith("bad\t") and "names lost.png, which is not in" in line


def test_names_that_are_no_text(tmp_path, capsys):
    mesh = tmp_path / f"{NO_TEXT}.obj"
    mesh.write_text("v 0 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\n")
    flags = ["--out", str(tmp_path / "out"), "--size", "16", "--frames", "2", "--workers", "1", "--supersample", "1"]
    assert render_orbits.run(["meshes", str(mesh), *flags]) == 0
    assert (tmp_path / "out" / NO_TEXT / "transforms.json").is_file()
    table = tmp_path / "a.csv"
    assert evaluate.run(["views", str(tmp_path / "out"), str(tmp_path / "out"), "--csv", str(table)]) == 0
    with open(table, encoding="utf-8") as file:
        assert {row["object"] for row in csv.DictReader(file)} == {r"m\udcff\udce9"}


def test_views_are_compared_in_natural_order(tmp_path, capsys):
    for k, level in enumerate(np.linspace(0, 200, 12).astype(np.uint8)):
        image = Image.fromarray(np.full((16, 16, 3), level))
        for name in ("padded", "plain"):
            (tmp_path / name).mkdir(exist_ok=True)
        image.save(tmp_path / "padded" / f"{k:03d}.png")
        image.save(tmp_path / "plain" / f"{k}.png")
    assert evaluate.run(["views", str(tmp_path / "plain"), str(tmp_path / "padded")]) == 0
    assert "prediction                 100.00" in capsys.readouterr().out
