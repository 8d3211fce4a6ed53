"""Reading anybody's views, the settings, and tools/views_to_mesh.py from views to files, ended and resumed."""
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import trimesh
from PIL import Image
from support.commands import TINY_MESH, ending, load_tool, tree
from support.paths import ROOT

import sgm
from sgm.common.errors import InputError
from sgm.config.reconstruction import MeshSpec, load_mesh_spec
from sgm.config.yaml_reader import ConfigError
from sgm.reconstruct import stages
from sgm.reconstruct.distill import orbit_model
from sgm.reconstruct.distill.goals import Distiller
from sgm.reconstruct.hull.elevation import Elevation
from sgm.reconstruct.pipeline import Reconstruction
from sgm.reconstruct.posed_views import PosedViews, ShapeError
from sgm.reconstruct.stage_files import mesh_folder
from sgm.reconstruct.views_reader import read_views
from sgm.render.procedural import make_object
from sgm.render.zbuffer import SOFT, render_views
from sgm.views.cameras import FOV_DEG, Orbit
from sgm.views.transforms import write_transforms

SIDE, COUNT = 64, 10
TINY = [f"--set={text}" for text in TINY_MESH]


@pytest.fixture(scope="module")
def pictures():
    orbit = Orbit.static(15, COUNT)
    return orbit, render_views(make_object(5), orbit.poses(2.0), SIDE, FOV_DEG, lighting=SOFT)


@pytest.fixture
def folder(pictures, tmp_path):
    return written(tmp_path / "views", *pictures)


@pytest.fixture(autouse=True)
def small_turntable(monkeypatch):
    """Sixty frames of its size take longer than all else in these meshes; tests/reconstruct/test_report.py has them."""
    from sgm.reconstruct import report
    monkeypatch.setattr(report, "turntable", functools.partial(report.turntable, frames=4, size=64))


def written(folder, orbit, pictures):
    folder.mkdir(parents=True)
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{k:03d}.png")
    write_transforms(folder, orbit, SIDE)
    return folder


def edited(folder, change):
    """transforms.json with `change(data)` done to it."""
    path = folder / "transforms.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return folder


def test_our_own_views_come_in_premultiplied(folder, pictures):
    views = read_views(folder)
    assert isinstance(views, PosedViews) and len(views) == COUNT and (views.w, views.h) == (SIDE, SIDE)
    rgba = pictures[1].astype(np.float32) / 255
    np.testing.assert_allclose(views.mask, rgba[..., 3], atol=1e-6)
    np.testing.assert_allclose(views.rgb, rgba[..., :3] * rgba[..., 3:], atol=1e-6)
    np.testing.assert_allclose(views.c2w, pictures[0].poses(2.0), atol=1e-9)
    o, d = views.rays(np.array([3]), np.array([10]), np.array([20]))
    x, y = (20.5 - SIDE / 2) / views.fl_x, (SIDE / 2 - 10.5) / views.fl_y
    expected = views.c2w[3, :3, :3] @ (np.array([x, y, -1]) / np.sqrt(x * x + y * y + 1))
    np.testing.assert_allclose(d[0], expected, atol=1e-6)
    np.testing.assert_allclose(o[0], views.c2w[3, :3, 3], atol=1e-6)


def test_blenders_form_without_size_and_extension(folder):
    def change(data):
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
            del data[key]
        for frame in data["frames"]:
            frame["file_path"] = "./" + frame["file_path"][:-4]
    plain = read_views(folder)
    views = read_views(edited(folder, change) / "transforms.json")
    np.testing.assert_allclose(views.intrinsics, plain.intrinsics, rtol=1e-6)
    assert np.array_equal(views.rgb, plain.rgb)
    broken = edited(folder, lambda data: data["frames"][2].update(transform_matrix=[[float("nan")] * 4] * 4))
    with pytest.raises(InputError, match="transforms.json: frames\\[2\\].*4 x 4 finite"):
        read_views(broken)


def test_masks_of_their_own_cut_out(folder, pictures):
    for k, picture in enumerate(pictures[1]):
        Image.fromarray(picture[..., :3]).save(folder / f"{k:03d}.png")
        Image.fromarray(picture[..., 3]).save(folder / f"mask_{k}.png")
    edited(folder, lambda data: [frame.update(mask_path=f"mask_{k}.png") for k, frame in enumerate(data["frames"])])
    np.testing.assert_allclose(read_views(folder).mask, pictures[1][..., 3] / 255, atol=1e-6)
    Image.new("L", (SIDE, SIDE // 2)).save(folder / "mask_2.png")
    with pytest.raises(ShapeError, match="mask_2.png: found 64 x 32 pixels, expected the 64 x 64 of"):
        read_views(folder)


@pytest.mark.parametrize("level", [255, 120])
def test_pictures_without_alpha_are_cut_out(folder, pictures, level):
    for k, picture in enumerate(pictures[1]):
        alpha = picture[..., 3:] / 255
        flat = np.round(picture[..., :3] * alpha + level * (1 - alpha)).astype(np.uint8)
        Image.fromarray(flat).save(folder / f"{k:03d}.png")
    views = read_views(folder)
    truth = pictures[1][..., 3] > 127
    overlap = ((views.mask > 0.5) & truth).sum((1, 2)) / ((views.mask > 0.5) | truth).sum((1, 2))
    assert overlap.mean() > 0.9


def test_larger_pictures_are_reduced(folder):
    views, small = read_views(folder), read_views(folder, side=32)
    assert (small.w, small.h) == (32, 32)
    np.testing.assert_allclose(small.intrinsics, views.intrinsics / 2)
    np.testing.assert_allclose(small.mask, views.mask.reshape(COUNT, 32, 2, 32, 2).mean((2, 4)), atol=1e-5)
    assert len(read_views(folder, most=4)) == 4


def all_white(folder):
    Image.new("RGB", (SIDE, SIDE), (255, 255, 255)).save(folder / "004.png")


def all_transparent(folder):
    Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0)).save(folder / "004.png")


def another_shape(folder):
    Image.new("RGBA", (SIDE, SIDE // 2)).save(folder / "004.png")
    Image.fromarray(np.tile(np.uint8([[[9, 9, 9, 255]], [[9, 9, 9, 0]]]), (SIDE // 4, SIDE, 1))).save(folder / "004.png")


BROKEN = {
    "no transforms": (lambda f: (f / "transforms.json").unlink(), "found no transforms.json"),
    "a view is missing": (lambda f: (f / "003.png").unlink(), "003.png does not exist"),
    "all white": (all_white, "004.png.*mask"),
    "all transparent": (all_transparent, "004.png.*transparent"),
    "not its picture": (another_shape, "004.png: found 64 x 32 pixels"),
    "two views": (lambda f: edited(f, lambda d: d.update(frames=d["frames"][:2])), "found 2 views"),
    "NaN": (lambda f: edited(f, lambda d: d.update(fl_x=float("nan"))), "fl_x"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_views_that_cannot_be_used(folder, what):
    spoil, message = BROKEN[what]
    spoil(folder)
    with pytest.raises(InputError, match=message):
        read_views(folder)


def test_settings_and_their_errors(tmp_path):
    assert load_mesh_spec("default") == MeshSpec()
    for name in ("fast", "fine"):
        assert load_mesh_spec(name) != MeshSpec()
    for key, value in (("nerf.stepps", 3), ("nerf.encoding", "octree"), ("nerf.rays", 30), ("depth.fusion", "best"),
                       ("hold_out", 1), ("texture.size", 0), ("nerf.lr", "nan"), ("dmtet.steps", [3])):
        with pytest.raises(ConfigError, match=key):
            load_mesh_spec("default", [f"{key}={value}"])


def test_wrong_flags_are_one_line_and_write_nothing(folder, capsys):
    run = load_tool("views_to_mesh").main
    before = tree(folder)
    for argv, message in (([folder, "--config", "fastt"], "fast"), ([folder, "--stages", "mesh"], "--stages"),
                          ([folder, "--set", "nerf.steps=x"], "nerf.steps"), ([folder, "--fov", "30"], "--fov 30: belongs"),
                          ([folder, "--elevation", "90"], "--elevation"), ([folder, "--device", "GPU"], "--device"),
                          ([folder, "--ckpt", "x"], "--ckpt: is of a model that distills; give --distill"),
                          ([folder, "--distill"], "--model: found none, and no run.json"),
                          ([folder, "--distill", "--orbit", "static"], "--distill: belongs to a views folder")):
        code, said = ending(lambda a: _code(run, a), argv, capsys)
        assert code == 2 and message in said, said
    code, said = ending(lambda a: _code(run, a), [folder.parent / "nothing"], capsys)
    assert code == 2 and "nothing" in said
    assert tree(folder) == before


def _code(main, argv):
    from sgm.common.cli import exit_code
    return exit_code("views_to_mesh.py", main, argv)


def test_poses_of_the_other_sign_are_named_by_the_tool(pictures, tmp_path, capsys):
    orbit, images = pictures
    folder = written(tmp_path / "wrong", orbit.with_sign(-1), images)
    code, said = ending(lambda a: _code(load_tool("views_to_mesh").main, a), [folder, "--quiet", *TINY], capsys)
    assert code == 2 and "--azimuth-sign" in said and not (folder / "mesh").exists()


def test_a_folder_of_other_files_is_not_written_into(folder, tmp_path, capsys):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("you")
    argv = [folder, "--output", tmp_path / "letters"]
    code, said = ending(lambda a: _code(load_tool("views_to_mesh").main, a), argv, capsys)
    assert code == 2 and "other files" in said and tree(tmp_path / "letters") == {"dear.txt": b"you"}


def command(folder, output, *more):
    return [sys.executable, str(ROOT / "tools" / "views_to_mesh.py"), str(folder), "--output", str(output), "--quiet", *TINY,
            *more]


@pytest.mark.slow
def test_from_views_to_files_killed_and_resumed(folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(folder, whole, "--set=hold_out=5"), check=True, timeout=300)
    report = json.loads((whole / "report.json").read_text())
    assert report["views"]["held_back"] == 2 and set(report["metrics"]) == {"input", "held_back"}
    assert report["mesh"]["watertight"] and report["mesh"]["components"] == 1 and report["mesh"]["boundary_edges"] == 0
    assert set(report["stages"]) == {"views", "hull", "nerf", "surface", "dmtet", "texture"}
    names = {path.name for path in whole.iterdir()}
    assert names >= {"light.png", "mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.ply", "contact.png", "report.json", "work"}
    assert {path.name for path in (whole / "work").glob("*.png")} == {
        f"{name}.png" for name in ("nerf_00006", "nerf_00012", "dmtet_00004", "dmtet_00006")}
    assert Image.open(whole / "work" / "dmtet_00006.png").size == (3 * SIDE, 3 * SIDE)      # views, colors, shape

    process = subprocess.Popen(command(folder, parts, "--set=hold_out=5"))
    while process.poll() is None and not (parts / "work" / "nerf.npz").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (parts / "mesh.glb").exists()
    subprocess.run(command(folder, parts, "--set=hold_out=5", "--resume"), check=True, timeout=300)
    for name in ("mesh.glb", "mesh.ply", "mesh.png"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name

    # A stage alone, from what the others left; and other settings are refused.
    subprocess.run(command(folder, parts, "--set=hold_out=5", "--stages", "texture", "--set=texture.size=64"), check=True,
                   timeout=300)
    assert Image.open(parts / "mesh.png").size == (64, 64)
    result = subprocess.run(command(folder, parts, "--set=hold_out=5", "--set=nerf.lr=0.02", "--resume"), capture_output=True,
                            text=True, timeout=300)
    assert result.returncode == 2 and "nerf.lr" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("stage, steps", [("nerf", "4000"), ("dmtet", "[4000,2]")])
def test_ctrl_c_makes_files_of_what_there_is(stage, steps, folder, tmp_path):
    output = tmp_path / "out"
    process = subprocess.Popen(command(folder, output, f"--set={stage}.steps={steps}"), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (output / "work" / f"{stage}.npz").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said
    report = json.loads((output / "report.json").read_text())
    assert report["interrupted"] and 0 < report[stage]["steps"] < 4000
    assert (output / "mesh.glb").stat().st_size > 1000 and not [f for f in os.listdir(output) if f.startswith(".")]


def test_ctrl_c_leaves_a_mesh(folder, tmp_path, monkeypatch):
    """The handler is called as Ctrl-C calls it, once before and once within the texture's least squares, once after.

    A finished mesh of an earlier run is left as it was, unless the new one is complete.
    """
    from sgm.reconstruct import report as report_module
    from sgm.reconstruct.texture import baking, least_squares
    output, told = tmp_path / "out", tmp_path / "report.html"
    settings = [item.removeprefix("--set=") for item in TINY]
    observations, facts = least_squares._observations, report_module.facts

    def run(*more):
        return Reconstruction(folder, load_mesh_spec("default", [*settings, *more]), output, ("texture",), progress=False,
                              outdated=[told])

    def files():
        return {path: path.read_bytes() for path in (told, *output.iterdir()) if path.is_file()}

    def interrupted(of):
        once = iter([signal.SIGINT])

        def within(*args, **options):
            for number in once:
                os.kill(os.getpid(), number)
            return of(*args, **options)
        return within

    ended = run()
    assert ended.run().albedo is not None and ended.report["light"]["shading"][0] < ended.report["light"]["shading"][1]
    assert ended.report["interrupted"] is False and (output / "contact.png").exists() and (output / "light.png").exists()
    told.write_text("of the first mesh")
    before = files()

    def ends_optimization(run, *args):
        run.interrupted = True
        return surface(run, *args)

    def fails(*args):
        raise KeyboardInterrupt

    surface = Reconstruction.surface
    for place, name, instead in ((Reconstruction, "surface", ends_optimization), (baking, "texels", interrupted(baking.texels))):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, instead)
            ended = run("light.bake=true")
            assert ended.run() is None and ended.interrupted and ended.kept and files() == before, name
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Reconstruction, "field", fails)
        run("light.bake=true").run()
    assert files() == before

    baked = (output / "mesh.png").read_bytes()
    for place, name, of in ((baking, "texels", baking.texels), (least_squares, "_observations", observations),
                            (report_module, "facts", facts)):
        (output / "report.json").unlink()
        (output / "mesh.glb").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(place, name, interrupted(of))
            ended = run("light.bake=true")
            assert ended.run().albedo is None
        report = json.loads((output / "report.json").read_text())
        assert ended.interrupted and report["interrupted"] and report["mesh"]["faces"] > 100 and "metrics" not in report
        assert not ended.kept and not told.exists()
        assert (output / "mesh.glb").stat().st_size > 1000 and "texture" in report["stages"]
        assert not any((output / name).exists() for name in ("contact.png", "light.png", "turntable.gif"))
        assert ((output / "mesh.png").read_bytes() == baked) == (name == "facts")


@pytest.mark.slow
def test_ctrl_c_in_the_last_stage_of_the_command(folder, tmp_path):
    output = tmp_path / "out"
    process = subprocess.Popen(command(folder, output, "--stages", "texture", "--set=texture.size=1024",
                                       "--set=texture.refine=200"), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (output / "work" / "surface.npz").exists():
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said
    assert json.loads((output / "report.json").read_text())["interrupted"] and (output / "mesh.glb").exists()


def test_from_python(folder, tmp_path):
    """Without NeRF and DMTet: the hull, textured."""
    settings = [item.removeprefix("--set=") for item in TINY]
    mesh = sgm.views_to_mesh(folder, overrides=settings, stages=("texture",), progress=False, obj_up="y")
    assert mesh.save(tmp_path / "mesh.glb") == [tmp_path / "mesh.glb"]
    mesh.save(tmp_path / "mesh.obj", obj_up="y")
    mesh.save(tmp_path / "mesh.ply")
    for name in ("mesh.glb", "mesh.obj", "mesh.ply"):
        assert (tmp_path / name).read_bytes() == (folder / "mesh" / name).read_bytes()


class Blue:
    """A model that thinks everything is blue."""
    name, num_frames, size, is_posed, frees_graphs = "blue", 6, (SIDE, SIDE), True, False

    def __call__(self, clip, orbit, sigma, rng):
        return np.where((clip == 1).all(1, keepdims=True), 1, np.float32([-1, -1, 1]).reshape(3, 1, 1)).astype(np.float32)


def test_the_time_of_distilling_is_said_before(folder, capsys):
    """40 steps of 200, each clip one step of sampling and two decodings: 18 / 3 + 2 * 2 seconds."""
    (folder / "run.json").write_text(json.dumps({
        "model": "sv3d_tiny", "steps": 3,
        "stages": {"sample": {"seconds": 18.0}, "decode": {"seconds": 2.0}}}))
    distiller = load_tool("views_to_mesh").distiller_of(folder, orbit_model.load(folder), load_mesh_spec("default"), False)
    assert distiller.file == folder / "009.png"
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}: distillation by sv3d_tiny sha256:") and said.endswith(
        ": 40 clips, 6.7 minutes or less, by the times of its views\n")


@pytest.mark.slow
def test_distilled(folder, tmp_path, uncompiled):
    """A model is asked in the last half of the steps; what it said is in the report, and kept for the other stages."""
    spec = load_mesh_spec("default", [item.removeprefix("--set=") for item in TINY] + ["distill.share=0.5"])
    run = Reconstruction(folder, spec, tmp_path / "mesh", ("dmtet", "texture"), progress=False,
                         distiller=Distiller(Blue(), spec.distill))
    first = run.run()
    assert len(run.report["distill"].pop("seconds_per_clip")) == 3
    assert run.report["distill"] == {"model": "blue", "weight": 39.0} and run.report["mesh"]["watertight"]
    again = Reconstruction(folder, spec, tmp_path / "mesh", ("texture",), progress=False,
                           distiller=Distiller(Blue(), spec.distill)).run()
    np.testing.assert_array_equal(first.texture, again.texture)
    with pytest.raises(ShapeError, match="made with another distill"):
        Reconstruction(folder, spec, tmp_path / "mesh", ("texture",), progress=False).run()


def test_what_python_does_not_replace(folder, tmp_path):
    """A mesh that no earlier run has made; other files may stand in the folder."""
    (tmp_path / "mesh.obj").write_text("mine")
    with pytest.raises(ShapeError, match=f"^output {tmp_path}: found mesh.obj, which no earlier run has made"):
        sgm.views_to_mesh(folder, tmp_path)
    with pytest.raises(ShapeError, match="^obj_up: found 'x', expected y or z"):
        sgm.views_to_mesh(folder, obj_up="x")
    assert (tmp_path / "mesh.obj").read_text() == "mine" and not (folder / "mesh").exists()


def test_the_flag_for_the_axis_of_the_obj(folder, tmp_path, monkeypatch):
    found = []

    def made(*values, **options):
        found.append(options["obj_up"])
        raise ShapeError("enough")

    monkeypatch.setattr("sgm.reconstruct.pipeline.Reconstruction", made)
    for flags in ([], ["--obj-up", "y"]):
        assert _code(load_tool("views_to_mesh").main, [str(folder), *flags]) == 2
    assert found == [None, "y"]


def stages_of(folder, output):
    """run(stage, ...) -> the mesh; reconstructs the views of `folder` into `output`, small."""
    settings = [item.removeprefix("--set=") for item in TINY]

    def run(*stages):
        return sgm.views_to_mesh(folder, output, overrides=settings, stages=stages, progress=False)
    return run


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def test_one_stage_from_python(folder, tmp_path):
    """Without the texture there is no mesh yet; what is missing is left out, what is unknown is named."""
    run = stages_of(folder, tmp_path)
    assert run("nerf") is None
    assert report_of(tmp_path)["nerf"]["steps"] == 12 and report_of(tmp_path)["dmtet"] == {"steps": 0}
    assert report_of(tmp_path)["mesh"]["watertight"] and not (tmp_path / "mesh.glb").exists()
    with pytest.raises(ShapeError, match="found nervf, expected some of nerf, dmtet, texture"):
        run("nervf")


@pytest.mark.slow
def test_stages_one_by_one_from_python(folder, tmp_path):
    """Each continues from what those before it left, and gives what a whole run gives."""
    parts, whole, alone = tmp_path / "parts", tmp_path / "whole", tmp_path / "alone"
    run = stages_of(folder, parts)
    assert run("nerf") is None
    assert run("dmtet") is None and report_of(parts)["dmtet"]["steps"] == 6 and report_of(parts)["nerf"]["steps"] == 12
    mesh, expected = run("texture"), stages_of(folder, whole)("nerf", "dmtet", "texture")
    assert (mesh.texture == expected.texture).all() and (mesh.vertices == expected.vertices).all()
    assert report_of(parts)["dmtet"] == report_of(whole)["dmtet"]
    # without a field of views: colors are learned along
    assert stages_of(folder, alone)("dmtet") is None
    assert "nerf" not in report_of(alone) and report_of(alone)["dmtet"]["steps"] == 6


def test_too_many_held_out(folder):
    spec = load_mesh_spec("default", ["views=4", "hold_out=2", "side=64"])
    with pytest.raises(ShapeError, match="hold_out=2 leaves 2 of 4"):
        stages.read(folder, spec)


def test_held_out_cameras_are_not_estimated(folder, monkeypatch):
    """What is held out is neither looked at nor turned when the others are; it only gets into the box with them."""
    from sgm.reconstruct.hull import scene_box
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]

    def framed(views, source):
        return dataclasses.replace(views, c2w=turn @ views.c2w).moved(2.0, np.array([0.1, 0.2, 0.3]))
    given = read_views(folder, 64)
    monkeypatch.setattr(scene_box, "framed", framed)
    used, held_out, _ = stages.read(folder, load_mesh_spec("default", ["hold_out=4", "side=64"]))
    seen = [k for k in range(len(given)) if k % 4 != 2]
    assert len(held_out) == len(given) - len(seen) > 0
    np.testing.assert_allclose(used.c2w[:, :3, :3], (turn @ given.c2w)[seen, :3, :3])
    np.testing.assert_allclose(held_out.c2w[:, :3, :3], given.c2w[2::4, :3, :3])
    np.testing.assert_allclose(held_out.c2w[:, :3, 3], 2 * (given.c2w[2::4, :3, 3] - [0.1, 0.2, 0.3]))
    assert held_out.scale == used.scale and held_out.center == pytest.approx(used.center)


COARSE = [*TINY, "--stages", "texture", "--set=side=32", "--set=hull.resolution=16", "--set=depth.resolution=16",
          "--set=texture.size=64", "--set=texture.refine=0", "--set=clean.faces=300", "--quiet"]


def without_pictures(monkeypatch, iou=1):
    """Leave out what takes long and is not the point, and seek elevations on small hulls."""
    from sgm.reconstruct import report as report_module
    from sgm.reconstruct.hull import elevation, scene_box
    monkeypatch.setattr(elevation, "CELLS", 40)
    monkeypatch.setattr(elevation, "STEP", 10)
    monkeypatch.setattr(scene_box, "LOW", 48)
    for name in ("view_metrics", "write_contact_sheet", "turntable", "write_turntable"):
        monkeypatch.setattr(report_module, name, lambda *args: {"psnr_fg": 0, "iou": iou})


def at_elevation(folder, degrees):
    """The same views, whose cameras say another elevation."""
    write_transforms(folder, Orbit.static(degrees, COUNT), SIDE)
    return folder


def test_mesh_that_does_not_explain_its_views(folder, tmp_path, capsys, monkeypatch, caplog):
    """Exit code 3, with what disagrees; the files stay."""
    without_pictures(monkeypatch, iou=0.4)
    run = load_tool("views_to_mesh").main
    assert run([str(at_elevation(folder, 30)), "--output", str(tmp_path / "out"), *COARSE]) == 3
    assert "views_to_mesh.py: the mesh does not explain its views" in capsys.readouterr().err
    said = report_of(tmp_path / "out")["doubts"]
    assert "the mesh's silhouettes have an IoU of 0.400" in said[0] and "elevation: at 1" in said[1]
    assert all(doubt in caplog.text for doubt in said) and (tmp_path / "out" / "mesh.glb").exists()


def test_cameras_are_put_right_in_place(folder, tmp_path, monkeypatch):
    """By what the outlines tell, or by what is given; all else in the file stays, and the old one beside it."""
    without_pictures(monkeypatch)
    edited(at_elevation(folder, 40), lambda data: data.update(frames=[*data["frames"]], note="mine"))
    before = (folder / "transforms.json").read_text()
    run = load_tool("views_to_mesh").main
    argv = [str(folder), "--output", str(tmp_path / "out"), *COARSE, "--set=side=64", "--write-cameras"]
    assert run([*argv, "--elevation", "auto"]) == 0
    found = report_of(tmp_path / "out")["views"]["elevation"]
    assert found["certain"] and abs(found["used"] - 15) <= 2 and found["cameras"] == 40
    assert (folder / "transforms.old.json").read_text() == before
    after, before = json.loads((folder / "transforms.json").read_text()), json.loads(before)
    assert after.keys() == before.keys() and after["note"] == "mine"
    for frame, old, pose in zip(after["frames"], before["frames"], Orbit.static(found["used"], COUNT).poses()):
        assert frame["azimuth_deg"] == old["azimuth_deg"] and frame["elevation_deg"] == pytest.approx(found["used"])
        np.testing.assert_allclose(frame["transform_matrix"], pose, atol=1e-6)
    again = Reconstruction(folder, MeshSpec(), tmp_path / "out", elevation=12)
    again.put_cameras_right(Elevation(found["used"], 12, 0.9))
    assert json.loads((folder / "transforms.json").read_text())["frames"][0]["elevation_deg"] == pytest.approx(12)
    assert (folder / "transforms.old1.json").exists() and json.loads((folder / "transforms.old.json").read_text()) == before


def test_elevation_of_sv3d_u_is_sought(folder, monkeypatch):
    """Its run.json says that nobody knows it."""
    without_pictures(monkeypatch)
    spec = load_mesh_spec("default", ["side=32"])
    at_elevation(folder, 17)
    assert stages.read(folder, spec)[2].used == pytest.approx(17)
    at_elevation(folder, 40)
    (folder / "run.json").write_text('{"model": "sv3d_u"}')
    assert abs(stages.read(folder, spec)[2].used - 15) <= 2


def test_frames_without_cameras(folder, tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    assert mesh_folder(folder) == folder / "mesh" == mesh_folder(folder / "transforms.json")
    assert mesh_folder(folder / "turn.mp4") == folder / "turn_mesh"
    (folder / "transforms.json").unlink()
    run = load_tool("views_to_mesh").main
    assert run([str(folder), "--output", str(tmp_path / "out"), *COARSE, "--set=side=64", "--orbit", "static"]) == 0
    report = report_of(tmp_path / "out")
    assert report["frames"] == {"source": str(folder), "orbit": "static"}
    assert report["views"]["elevation"]["certain"] and abs(report["views"]["elevation"]["used"] - 15) <= 2


def test_y_up_world_and_the_one_before_it(folder, tmp_path, capsys, monkeypatch):
    """Of one object in a z-up and in a y-up world: the same GLB; undone, OBJ in the world before that."""
    without_pictures(monkeypatch)
    run = load_tool("views_to_mesh").main
    to_y_up = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    assert run([str(folder), "--output", str(tmp_path / "z"), *COARSE]) == 0
    assert "mesh.obj" not in capsys.readouterr().out

    def change(data):
        for frame in data["frames"]:
            frame["transform_matrix"] = (to_y_up @ frame["transform_matrix"]).tolist()
        data["applied_transform"] = to_y_up[:3].tolist()
    edited(folder, change)
    assert run([str(folder), "--output", str(tmp_path / "y"), *COARSE, "--original-world"]) == 0
    assert "mesh.obj, mesh.ply: in the world before applied_transform" in capsys.readouterr().out
    for kind in ("glb", "obj", "ply"):
        z, y = (trimesh.load(tmp_path / name / f"mesh.{kind}", force="mesh", process=False) for name in "zy")
        np.testing.assert_allclose(y.vertices, z.vertices, atol=1e-4)
        np.testing.assert_array_equal(y.faces, z.faces)
    assert np.abs(report_of(tmp_path / "y")["views"]["upright"] @ to_y_up[:3, :3] - np.eye(3)).max() == 0


@pytest.mark.parametrize("flag, override", [("--no-light", "light.use=false"), ("--bake-light", "light.bake=true")])
def test_flags_of_light_are_settings(flag, override, monkeypatch):
    tool, seen = load_tool("views_to_mesh"), []

    def ended(config, overrides):
        seen.extend(overrides)
        raise InputError("enough")

    monkeypatch.setattr(tool, "load_mesh_spec", ended)
    with pytest.raises(InputError, match="enough"):
        tool.main(["views", flag])
    assert seen == [override] and load_mesh_spec("default", seen) != MeshSpec()


def test_the_world_of_the_files_is_named(caplog):
    moved, still = (PosedViews(*[None] * 3, 1, 1, 1, 1, applied=applied) for applied in (np.diag([2.0, 2, 2, 1]), np.eye(4)))
    plain, original = (Reconstruction("there", MeshSpec(), "out", original_world=flag) for flag in (False, True))
    assert plain.world_of(moved) == "the world of the poses in transforms.json, with applied_transform; original_world undoes it"
    assert plain.world_of(still) == "the world of the poses in transforms.json" and not caplog.records
    assert original.world_of(moved) == "the world before applied_transform"
    assert original.world_of(still) == plain.world_of(still) and "no applied_transform to undo" in caplog.text


def unequal(folder, path):
    """The views of a folder, every second one darker."""
    shutil.copytree(folder, path)
    for file in sorted(path.glob("*.png"))[::2]:
        rgba = np.asarray(Image.open(file)).copy()
        rgba[..., :3] = 0.7 * rgba[..., :3]
        Image.fromarray(rgba).save(file)
    return path


@pytest.mark.slow
def test_views_that_disagree(folder, tmp_path):
    """They are told by their exposures; the field's grids are saved and used again; equal views are left as they are."""
    views = unequal(folder, tmp_path / "unequal")
    out = {name: tmp_path / name for name in ("auto", "never", "equal", "equal_never")}
    meshes = {name: sgm.views_to_mesh(views if "equal" not in name else folder, output,
                                      overrides=[*(text.removeprefix("--set=") for text in TINY),
                                                 f"disagreement.cure={'never' if 'never' in name else 'auto'}"],
                                      progress=False) for name, output in out.items()}
    assert report_of(out["auto"])["exposure"]["disagree"] and report_of(out["auto"])["exposure"]["spread"] > 0.1
    assert report_of(out["never"])["exposure"] == {"spread": None, "disagree": False}
    assert not report_of(out["equal"])["exposure"]["disagree"]
    for name in ("vertices", "texture"):
        assert np.array_equal(getattr(meshes["equal"], name), getattr(meshes["equal_never"], name))
    assert not np.array_equal(meshes["auto"].vertices, meshes["never"].vertices)
    settings = [text.removeprefix("--set=") for text in TINY]
    again = sgm.views_to_mesh(views, out["auto"], overrides=settings, stages=("texture",), progress=False)
    assert np.array_equal(again.vertices, meshes["auto"].vertices) and np.array_equal(again.texture, meshes["auto"].texture)
    with pytest.raises(InputError, match="was made with another disagreement.grid"):
        sgm.views_to_mesh(views, out["auto"], overrides=[*settings, "disagreement.grid=4"], stages=("dmtet", "texture"),
                          progress=False)
