"""tools/image_to_mesh.py with a feed-forward network: files, views, folders of images, and what is refused."""
import json

import numpy as np
import pytest
from PIL import Image
from support.badfiles import object_on_white
from support.commands import ending, load_tool
from support.small_lrm import CHANGES

from sgm import ops
from sgm.geometry.mesh_reader import load_mesh
from sgm.ops import device
from sgm.views.transforms import read_transforms

command = load_tool("image_to_mesh")
# the first grid points whose random density is above the threshold: a surface, whatever it looks like
SMALL = ["--config", "lrm_small", "--ckpt", "random", *(f"--set={text}" for text in [*CHANGES, "volume.threshold=0.3"]), "--format", "png"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, uncompiled):
    """Without graphs; operators are launched one by one, so there is nothing to wait for."""
    monkeypatch.setattr("sgm.feedforward.reconstructor.POINTS", 4096)
    for module in (device, ops):
        monkeypatch.setattr(module, "wait", lambda: None)


@pytest.fixture
def photo(tmp_path):
    object_on_white().save(tmp_path / "cup.png")
    return tmp_path / "cup.png"


def test_an_image_becomes_a_mesh(photo, tmp_path, capsys):
    output = tmp_path / "out"
    assert command.run([str(photo), "--output", str(output), "--elevation", "20", "--faces", "500", *SMALL]) == 0
    folder = output / "cup"
    assert {path.name for path in folder.iterdir()} == {"input.png", "input_matte.png", "mesh", "report.html", "report.json"}
    assert {path.name for path in (folder / "mesh").iterdir()} == {"mesh.glb", "mesh.obj", "mesh.ply", "report.json"}
    said = capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    assert f"{folder / 'mesh'}: {report['mesh']['faces']} faces, " in said and "density above 0.3 on 16^3 points" in said
    assert report["elevation"] == 20 and report["steps"] is None and set(report["stages"]) == {
        "encode", "planes", "grid", "clean", "color", "files"}
    mesh = load_mesh(folder / "mesh" / "mesh.glb", up="y")
    assert np.ptp(mesh.vertices, 0).max() == pytest.approx(1, abs=1e-5) and mesh.colors is not None
    assert np.abs(mesh.vertices.min(0) + mesh.vertices.max(0)).max() < 1e-5
    # what is there is kept with --resume, and made again where a flag differs
    again = [str(photo), "--output", str(output), "--elevation", "20", "--faces", "500", "--resume"]
    assert command.run([*again, *SMALL]) == 0
    assert f"{folder}: finished already, skipped" in capsys.readouterr().out
    assert command.run([*again, "--elevation", "10", *SMALL]) == 0
    assert "finished already" not in capsys.readouterr().out
    assert json.loads((folder / "report.json").read_text())["elevation"] == 10


def test_views_and_a_texture(photo, tmp_path, capsys):
    output = tmp_path / "out"
    flags = [str(photo), "--output", str(output), "--views", "3", "--size", "16", "--orbit", "sine-10", "--texture", "128", *SMALL]
    assert command.run(flags) == 0
    folder = output / "cup"
    cameras = read_transforms(folder / "views")
    assert len(cameras.poses) == 3 and Image.open(folder / "views" / "001.png").size == (16, 16)
    run = json.loads((folder / "views" / "run.json").read_text())
    assert run["model"] == "lrm_small" and run["elevation"] == 10 and "planes" in run["stages"]
    assert Image.open(folder / "mesh" / "mesh.png").size == (128, 128)
    assert command.run([*flags, "--resume"]) == 0 and command.run([*flags, "--overwrite"]) == 0
    code, line = ending(command.run, flags, capsys)
    assert code == 2 and "views: holds views already; --overwrite replaces them" in line
    # --resume replaces those of this image: after an end between them and the report, and with another flag; but no others
    (folder / "report.json").unlink()
    assert command.run([*flags, "--resume"]) == 0 and command.run([*flags, "--resume", "--faces", "400"]) == 0
    (folder / "views" / "run.json").write_text(json.dumps(run | {"image": {"hash": "of another"}}))
    code, line = ending(command.run, [*flags, "--resume", "--faces", "500"], capsys)
    assert code == 2 and "views: holds views already" in line


def test_a_folder_of_images(photo, tmp_path, capsys):
    """A bad one is named, the others are made."""
    photo.with_name("bad.png").write_bytes(b"no picture")
    code = command.run([str(tmp_path), "--output", str(tmp_path / "out"), *SMALL])
    ending_of = capsys.readouterr()
    assert code == 1 and (tmp_path / "out" / "cup" / "report.html").exists() and "bad.png" in ending_of.err


def test_processes_of_msrun_share_a_folder(photo, tmp_path, monkeypatch, capsys):
    photo.with_name("bad.png").write_bytes(b"no picture")
    for name, value in (("MS_ROLE", "MS_WORKER"), ("RANK_SIZE", "2"), ("DEVICE_ID", "0")):
        monkeypatch.setenv(name, value)
    for number, said in (("0", "bad.png"), ("1", "cup")):
        monkeypatch.setenv("RANK_ID", number)
        # 0 also where all of its images failed: msrun would end the others
        assert command.run([str(tmp_path), "--output", str(tmp_path / f"out{number}"), *SMALL]) == 0
        shown = capsys.readouterr()
        assert said in shown.err + shown.out
    assert not (tmp_path / "out0" / "cup").exists() and (tmp_path / "out1" / "cup" / "report.html").exists()


@pytest.mark.parametrize("flags, said", [
    (["--steps", "9"], "argument --steps: is of orbit models, and --config lrm_small is a feed-forward network"),
    (["--mesh-config", "fast"], "argument --mesh-config: is of orbit models"), (["--distill"], "distill: is of orbit models"),
    (["--orbit", "dynamic"], "argument --orbit: is of views, which a feed-forward network writes with --views alone"),
    (["--views", "3", "--size", "16x32"], "--size: found 16x32, expected one number"),
    (["--format", "jpg"], "--format: found jpg, expected any of"), (["--elevation", "95"], "--elevation: found 95, expected"),
    (["--resolution", "2"], "--resolution"), (["--elevation", "auto"], "elevation: found auto, which takes an estimator"), (["--set", "volume.threshold=1e4"], "found densities up to")])
def test_what_is_refused(flags, said, photo, tmp_path, capsys):
    code, line = ending(command.run, [str(photo), "--output", str(tmp_path / "out"), *SMALL, *flags], capsys)
    assert code == 2 and said in line, line


def test_flags_of_the_other_way(photo, capsys):
    code, line = ending(command.run, [str(photo), "--resolution", "64"], capsys)
    assert code == 2 and "argument --resolution: is of feed-forward networks, and the embedded sv3d_tiny is none" in line
    code, line = ending(command.run, [str(photo), "--config", "triposr"], capsys)
    assert code == 2 and "found none for triposr, expected its weights" in line
    code, line = ending(command.run, [str(photo), "--config", "tripo"], capsys)
    assert code == 2 and "the nearest name is triposr" in line
