"""tools/image_to_mesh.py from its flags to report.html: with drawn views and a brick for a mesh, and once (slow) in full."""
import json
import logging
import re
import shutil
import signal
import subprocess
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.badfiles import object_on_white
from support.coloring import textured_brick
from support.commands import TINY_MESH, ending, load_tool
from support.paths import ROOT
from support.processes import running, stop, wait_until

import simple_video_sample
from sgm.config.model_files import load_spec
from sgm.config.reconstruction import load_mesh_spec
from sgm.diffusion.pipeline import run_record
from sgm.geometry import mesh_writer
from sgm.reconstruct.posed_views import ShapeError
from sgm.views.folder import Views

command = load_tool("image_to_mesh")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TINY = [f"--mesh-set={text}" for text in TINY_MESH]

brick = cache(textured_brick)


@pytest.fixture
def made(monkeypatch):
    """The command without networks and optimizations. What was loaded and made, in order; `report` changes the meshes'."""
    made = SimpleNamespace(list=[], report={}, kept=False)
    engine = SimpleNamespace(precision="Float32", is_random=False, weights=None, release=lambda: None)

    def load_model(model, ckpt, dtype, overrides, lora, ema):
        made.list.append("model")
        return SimpleNamespace(**vars(engine), spec=load_spec(model, overrides))

    def generate_views(engine, image, orbit, options, **callbacks):
        made.list.append("views")
        frames = np.full((len(orbit), *image.shape[:2], 3), 255, np.uint8)
        frames[:, 16:48, 16:48] = (200, 40, 40)
        stages = {name: {"seconds": 1.5, "peak_gb": 0.5} for name in ("condition", "sample", "decode")}
        run = {**run_record(engine, orbit, options.of_model(engine.spec)), "stages": stages}
        return Views(frames, image, orbit, run)

    class Reconstruction:
        def __init__(self, source, spec, output, **options):
            self.source, self.spec, self.output, self.options = source, spec, output, options
            self.interrupted = made.report.get("interrupted", False)
            self.kept = made.kept
            self.outdated = options.pop("outdated")

        def run(self):
            made.list.append((self.source.name, self.options))
            if self.source.name.startswith("bad"):
                raise ShapeError("the object is too thin")
            if self.kept:
                return
            for file in self.outdated:
                file.unlink(missing_ok=True)
            (self.output / "work").mkdir(parents=True, exist_ok=True)
            mesh_writer.save(brick(), self.output / "mesh.glb")
            Image.new("RGB", (64, 48), "green").save(self.output / "contact.png")
            if self.spec.light.use:
                Image.new("RGB", (48, 64), "gray").save(self.output / "light.png")
            else:
                (self.output / "light.png").unlink(missing_ok=True)
            self.report = {
                "views": {"world": "the world of the poses"}, "mesh": {"faces": 192, "watertight": True},
                "metrics": {"input": {"psnr_fg": 20.0, "iou": 0.9}}, "doubts": [], "interrupted": False,
                "stages": {"nerf": {"seconds": 7.0, "peak_gb": 1.5}}, **made.report}

    monkeypatch.setattr("sgm.diffusion.pipeline.load_model", load_model)
    monkeypatch.setattr(command.views_to_mesh, "distiller_of", lambda folder, engine, spec, sequential: engine.spec.name)
    monkeypatch.setattr("sgm.diffusion.pipeline.generate_views", generate_views)
    monkeypatch.setattr("sgm.reconstruct.pipeline.Reconstruction", Reconstruction)
    return made


def flags(image, tmp_path, *more):
    return [str(image), "--output", str(tmp_path / "out"), "--num-frames", "3", "--format", "png", *more]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a", "bad", "c"):
        object_on_white().save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def test_one_folder_holds_everything(made, photo, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "sgm")
    assert command.run(flags(photo, tmp_path, "--obj-up", "y")) == 0
    folder = tmp_path / "out" / "cup_23"
    assert {"000.png", "002.png", "input.png", "input_matte.png", "contact.png", "orbit.png", "transforms.json", "run.json",
            "mesh", "report.json", "report.html"} <= {path.name for path in folder.iterdir()}
    report = json.loads((folder / "report.json").read_text())
    assert report["seconds"] == 3 * 1.5 + 7 and report["peak_gb"] == 1.5 and report["image"]["file"] == "cup.png"
    assert list(report["stages"]) == ["condition", "sample", "decode", "nerf"]
    assert made.list == ["model", "views", ("cup_23", {"resume": False, "progress": True, "obj_up": "y", "distiller": None})]
    assert "knows simple procedural objects only" in caplog.text
    said = capsys.readouterr().out
    assert "192 faces, watertight" in said and f"{folder}/report.html" in said and "s in all, at most 1.5 GB" in said


def data_of(page):
    return json.loads(re.search(r'(?s)id="data">(.*?)</script>', page)[1])


def test_page_loads_nothing_from_elsewhere(made, photo, tmp_path):
    assert command.run(flags(photo, tmp_path)) == 0
    page = (tmp_path / "out" / "cup_23" / "report.html").read_text()
    addresses = re.findall(r"https?://[\w./-]*", page)
    assert set(addresses) == {"http://www.w3.org/1999/xhtml"}       # three.js's name of HTML elements, no address to load
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]{1,40})""", page.split('<script type="application/json"')[0])
    assert not sources and "{{" not in page.split("three.js")[0]
    data = data_of(page)
    assert set(data["pictures"]) == {"input", "matte", "views", "orbit", "mesh", "light"}
    assert all(picture.startswith("data:image/webp;base64,") for picture in data["pictures"].values())
    template = (ROOT / "tools" / "report_template.html").read_text()
    assert template.count('lang="en"') == template.count('lang="zh"') + 1        # that of the page itself
    parts = command.planned(load_spec("sv3d_tiny"), 3, load_mesh_spec(), True)
    stages = [name for part in parts for name in part] + list(command._feedforward.PLANNED)
    assert stages == list(re.findall(r"(?m)^  (\w+): \[", template))


@pytest.mark.parametrize("flag, use, bake", [("--no-light", False, False), ("--bake-light", True, True)])
def test_flags_of_light(made, flag, use, bake, photo, tmp_path):
    """They are settings, so a finished mesh of other ones is made again; the page shows light that was found."""
    assert command.run(flags(photo, tmp_path)) == 0
    assert command.run(flags(photo, tmp_path, "--resume", flag)) == 0
    assert sum(isinstance(one, tuple) for one in made.list) == 2
    folder = tmp_path / "out" / "cup_23"
    settings = json.loads((folder / "report.json").read_text())["made_with"]["settings"]
    assert settings["light"] == {"use": use, "bake": bake}
    assert ("light" in data_of((folder / "report.html").read_text())["pictures"]) == use


def test_resuming_skips_what_is_finished(made, photo, tmp_path, capsys):
    assert command.run(flags(photo, tmp_path)) == 0
    assert command.run(flags(photo, tmp_path, "--resume")) == 0
    assert "finished already, skipped (without --resume it is made again)" in capsys.readouterr().out
    assert made.list[2:] == [("cup_23", made.list[2][1]), "model"]               # neither views nor a mesh
    # another setting, a damaged or a missing report: the mesh is made again, the views are kept
    assert command.run(flags(photo, tmp_path, "--resume", "--mesh-config", "fast")) == 0
    (tmp_path / "out" / "cup_23" / "report.json").write_text("[")
    assert command.run(flags(photo, tmp_path, "--resume", "--mesh-config", "fast")) == 0
    (tmp_path / "out" / "cup_23" / "report.html").unlink()
    assert command.run(flags(photo, tmp_path, "--resume", "--mesh-config", "fast")) == 0
    assert made.list.count("views") == 1 and sum(isinstance(one, tuple) for one in made.list) == 4
    assert made.list[-1][1]["resume"] is True
    assert command.run(flags(photo, tmp_path, "--overwrite")) == 0
    assert made.list.count("views") == 2 and made.list[-1][1]["resume"] is False


def test_folder_of_images_loads_the_model_once(made, photos, tmp_path, capsys):
    (photos / "d.png").write_bytes(b"no picture")
    assert command.run(flags(photos, tmp_path)) == 1
    assert [one if isinstance(one, str) else one[0] for one in made.list] == [
        "model", "views", "views", "views", "a_23", "bad_23", "c_23"]
    error = capsys.readouterr().err
    assert "bad_23: the object is too thin" in error and "d.png: " in error
    whole = [path.parent.name for path in sorted((tmp_path / "out").glob("*/report.html"))]
    assert whole == ["a_23", "c_23"]


def test_doubts_and_an_interrupted_mesh(made, photo, tmp_path, capsys):
    made.report = {"doubts": ["elevation: look"]}
    assert command.run(flags(photo, tmp_path)) == 3
    assert "a mesh does not explain its views" in capsys.readouterr().err
    made.report, made.kept = {"interrupted": True}, True
    assert command.run(flags(photo, tmp_path, "--resume", "--mesh-config", "fast")) == 130
    said = capsys.readouterr()
    assert "the finished mesh of an earlier run stays" in said.out and said.err.endswith("interrupted; --resume continues\n")
    folder = tmp_path / "out" / "cup_23"
    assert (folder / "report.html").exists() and json.loads((folder / "report.json").read_text())["doubts"]
    made.kept = False
    assert command.run(flags(photo, tmp_path)) == 130
    said = capsys.readouterr()
    assert "the mesh is made of what there was" in said.out and "--resume continues" in said.err
    assert not (folder / "report.html").exists() and not (folder / "report.json").exists(), "those of the run before"


@pytest.mark.parametrize("more, expected", [
    (["--config", "svd", "--ckpt", "w"], "--config svd: found svd, which makes a video without cameras, expected a model of"),
    (["--mesh-set", "nerf.stps=3"], "--mesh-set nerf.stps"),
    (["--mesh-config", "quick"], "quick: "),
    (["--no-light", "--bake-light"], "argument --bake-light: not allowed with argument --no-light"),
    (["--resume", "--overwrite"], "argument --resume: keeps what --overwrite makes again"),
    (["--elevation", "95"], "--elevation: found 95"),
    (["--output", "{photo}"], "is a file, expected a folder")])
def test_wrong_flags(made, more, expected, photo, tmp_path, capsys):
    code, said = ending(command.run, flags(photo, tmp_path, *(word.format(photo=photo) for word in more)), capsys)
    assert code == 2 and expected in said
    assert not (tmp_path / "out").exists() and "views" not in made.list


def test_foreign_mesh_folder_is_found_before_any_work(made, photo, tmp_path, capsys):
    (tmp_path / "out" / "cup_23" / "mesh").mkdir(parents=True)
    (tmp_path / "out" / "cup_23" / "mesh" / "notes.txt").write_text("mine")
    code, said = ending(command.run, flags(photo, tmp_path), capsys)
    assert code == 2 and "found a folder with other files in it" in said and made.list == ["model"]


def test_flags_of_sampling_are_the_same(photo):
    ours, theirs = vars(command.parse(["cup.png"])), vars(simple_video_sample.parse(["--image", "cup.png"]))
    assert theirs.items() <= ours.items()
    assert set(ours) - set(theirs) == {"mesh_config", "mesh_set", "resume", "obj_up", "no_light", "bake_light", "distill",
                                       "feedforward", *command._feedforward.OWN}


@pytest.mark.parametrize("words, elevations", [([], (10, 10)), (["--config=sv3d_p", "--ckpt=random"], (-16, 36)),
                                               (["--config=sv3d_p", "--ckpt=random", "--orbit=static"], (10, 10))])
def test_orbit_where_none_is_asked_for(made, words, elevations, photo, tmp_path):
    assert command.run(flags(photo, tmp_path, *words)) == 0
    orbit = json.loads((tmp_path / "out" / "cup_23" / "run.json").read_text())["orbit"]["elevations_deg"]
    assert (min(orbit), max(orbit)) == pytest.approx(elevations, abs=0.2)


def test_first_guess_of_the_time():
    spec = load_mesh_spec("fast")
    views, mesh = command.planned(load_spec("sv3d_p"), 50, spec, False)
    assert views["sample"] == 50 * 350 and views["decode"] == 400
    assert mesh["nerf"] == pytest.approx(1e-4 * 200 * 2048) and mesh["dmtet"] == pytest.approx(0.12 * 100 * 2)
    low = command.planned(load_spec("sv3d_p", ["height=320"]), 50, spec, False)[0]
    assert low["sample"] == pytest.approx(views["sample"] * 320 / 576) and "distill" not in mesh
    distilled = command.planned(load_spec("sv3d_p"), 50, spec, True)[1]
    assert distilled["distill"] == pytest.approx(20 * (350 + 2 * 400))             # a fifth of 100 steps


def test_who_distils(made, photo, tmp_path):
    """Who asks for it, by the model of the views; another choice makes the mesh again."""
    assert command.run(flags(photo, tmp_path)) == 0
    assert command.run(flags(photo, tmp_path, "--resume", "--distill")) == 0
    assert command.run(flags(photo, tmp_path, "--resume", "--distill")) == 0
    assert command.run(flags(photo, tmp_path, "--resume", "--no-distill")) == 0
    meshes = [options["distiller"] for _, options in (one for one in made.list if isinstance(one, tuple))]
    assert meshes == [None, "sv3d_tiny", None]


# In full

@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """kill -9 in the middle of the mesh; --resume keeps the views and goes on from what the stages saved."""
    object_on_white(96).save(tmp_path / "cup.png")
    argv = ["tools/image_to_mesh.py", tmp_path / "cup.png", "--output", tmp_path / "out", "--steps", "1", *TINY]
    folder = tmp_path / "out" / "cup_23"
    with running(argv) as process:
        wait_until((folder / "mesh" / "work" / "nerf.npz").is_file, process, "a checkpoint")
        stop(process, signal.SIGKILL)
    assert not (folder / "report.html").exists()
    kept = (folder / "run.json").stat().st_mtime_ns
    with running([*argv, "--resume"]) as process:
        out, said = process.communicate(timeout=500)
    assert process.returncode in (0, 3), said           # the small model need not explain a red square
    assert "finished already" in out and (folder / "run.json").stat().st_mtime_ns == kept
    assert {"mesh.glb", "mesh.obj", "mesh.ply", "turntable.mp4"} <= {path.name for path in (folder / "mesh").iterdir()}
    report = json.loads((folder / "report.json").read_text())
    assert list(report["stages"]) == ["condition", "sample", "decode", "views", "hull", "nerf", "surface", "dmtet", "texture"]
    assert "turntable" in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_page_in_a_browser(made, photo, tmp_path, language):
    """Headless Chromium, without a network: the viewer loads the mesh and draws it."""
    assert command.run(flags(photo, tmp_path)) == 0
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         f"--user-data-dir={tmp_path / 'profile'}", f"--accept-lang={language}", "--enable-logging=stderr",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1100,800", "--virtual-time-budget=5000", "--hide-scrollbars",
         f"--screenshot={tmp_path / 'page.png'}", (tmp_path / "out" / "cup_23" / "report.html").as_uri()],
        capture_output=True, text=True, timeout=200)
    assert f"viewer: 192 faces, {language[:2]}" in done.stderr, done.stderr[-2000:]
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)[200:560, 100:1000]
    colored = np.ptp(pixels, axis=-1) > 60          # the brick's colors; the page itself is gray
    assert 0.05 < colored.mean() < 0.8
