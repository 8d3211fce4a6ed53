"""Which files of the output folder the web page reads, and that it reads no others."""
import io
import json
import os
import zipfile

import pytest
from _app.results import Results


@pytest.fixture
def results(tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "000.png").write_bytes(b"picture")
    folder = tmp_path / "out" / "cup_23"
    (folder / "mesh" / "work").mkdir(parents=True)
    for name in ("000.png", "001.png", "input.png", "transforms.json", "views.mp4", "mesh/mesh.obj", "mesh/mesh.mtl",
                 "mesh/mesh.png", "mesh/mesh.glb", ".hidden.png", "notes.txt", "mesh/work/nerf.json"):
        (folder / name).write_text(name)
    (folder / "run.json").write_text(json.dumps({"model": "sv3d_p"}))
    (folder / "mesh" / "report.json").write_text(json.dumps({"mesh": {"faces": 12}}))
    return Results(tmp_path / "out")


def test_files_of_a_result(results):
    found = results.get("cup_23")
    assert found.run == {"model": "sv3d_p"} and found.report == {"mesh": {"faces": 12}}
    assert "mesh/mesh.glb" in found.files and not found.files & {".hidden.png", "notes.txt", "mesh/work"}
    assert results.path("cup_23", "mesh/mesh.glb").read_text() == "mesh/mesh.glb"
    assert results.downloads(found) == ["mesh/mesh.glb", "mesh_obj.zip", "views.zip", "transforms.json", "views.mp4"]


@pytest.mark.parametrize("name, file", [
    ("cup_23", "../../secret.json"), ("cup_23", "mesh/../../../secret.json"), ("..", "secret.json"), ("../other", "000.png"),
    (".", "cup_23/000.png"), ("cup_23", "/etc/passwd"), ("", "secret.json"), ("cup_23", ""), ("cup_23", "mesh"),
    ("cup_23", "."), ("cup_23", "mesh/work/nerf.json"), ("cup_23", ".hidden.png"), ("cup_23", "notes.txt"),
    ("cup_23", "000.png\0.json"), ("cup_23/mesh", "mesh.glb"), ("cup_23", "a" * 300 + ".png"), ("cup_23", "missing.png"),
    ("cup_23", "000.png/"), ("cup_23", "000.png/."), ("cup_23", "./000.png"), ("cup_23", "mesh//mesh.glb")])
def test_nothing_else_is_read(results, name, file):
    assert results.path(name, file) is None


def test_links_are_not_followed(results, tmp_path):
    folder = results.folder / "cup_23"
    os.symlink(tmp_path / "secret.json", folder / "linked.json")
    os.symlink(tmp_path / "other", folder / "pictures")
    os.symlink(tmp_path / "other", results.folder / "elsewhere")
    os.mkfifo(folder / "pipe.png")
    assert results.path("cup_23", "linked.json") is results.path("cup_23", "pictures/000.png") is None
    assert results.path("elsewhere", "000.png") is results.path("cup_23", "pipe.png") is None
    assert results.get("elsewhere") is None and "linked.json" not in results.get("cup_23").files
    os.unlink(folder / "run.json")
    os.symlink(tmp_path / "secret.json", folder / "run.json")
    assert results.names() == [] or results.get("cup_23").run == {}


def test_results_are_listed_the_newest_first(results):
    for age, name in enumerate(["b", "c"]):
        (results.folder / name).mkdir()
        (results.folder / name / "run.json").write_text("not json")
        os.utime(results.folder / name / "run.json", (age, age))
    (results.folder / "unfinished").mkdir()
    (results.folder / "fast" / "mesh").mkdir(parents=True)
    (results.folder / "fast" / "report.json").write_text('{"model": "triposr"}')
    os.utime(results.folder / "fast" / "report.json", (2, 2))
    assert results.names() == ["cup_23", "fast", "c", "b"] and results.get("fast").run == {"model": "triposr"}
    assert results.get("b").run == {} and results.get("unfinished") is None and results.get("../out") is None


def test_names_are_free_for_two_users_at_once(results):
    assert [results.free_name("cup", "_23") for _ in range(2)] == ["cup-2", "cup-3"]
    assert results.free_name("cup", "_7") == "cup"
    assert results.free_name("../../a b\0/ü", "_7") == "a_b_ü" and results.free_name("...", "_7") == "image"


def test_archives(results):
    with zipfile.ZipFile(io.BytesIO(results.archive("cup_23", "views.zip"))) as packed:
        assert packed.namelist() == ["cup_23/000.png", "cup_23/001.png", "cup_23/run.json", "cup_23/transforms.json"]
        assert packed.read("cup_23/001.png") == b"001.png"
    with zipfile.ZipFile(io.BytesIO(results.archive("cup_23", "mesh_obj.zip"))) as packed:
        assert packed.namelist() == ["cup_23/mesh.mtl", "cup_23/mesh.obj", "cup_23/mesh.png"]
    assert results.archive("cup_23", "all.zip") is results.archive("nobody", "views.zip") is None
    assert results.archive("..", "views.zip") is None
