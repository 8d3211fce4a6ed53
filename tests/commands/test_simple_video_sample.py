"""simple_video_sample.py from its flags to its files, on a network of random weights."""
import errno
import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from support.badfiles import object_on_white
from support.paths import ROOT
from support.training import SV3D_P, drawn, write_model

import simple_video_sample as command
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError
from sgm.diffusion.engine import Engine
from sgm.diffusion.pipeline import generate, load_model
from sgm.models.initialization import initial_weight
from sgm.views.cameras import Orbit
from sgm.views.folder import Views
from sgm.views.transforms import read_transforms

VIEWS = 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights of the small model."""
    engine = Engine(load_spec("sv3d_tiny"))
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_safetensors(path, {name: initial_weight(name, parameter.shape, 0)
                            for name, parameter in engine.parameters_dict().items()})
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Flags of a model that compiles in seconds, with random weights."""
    folder = tmp_path_factory.mktemp("small")
    model, path = write_model(folder / "small.yaml", SV3D_P), folder / "small.safetensors"
    save_safetensors(path, drawn(load_spec(model)))
    return ["--config", str(model), "--ckpt", str(path)]


@pytest.fixture
def photos(tmp_path):
    """A folder with two images and one that is cut off."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.zeros((90, 120, 4), np.uint8)
    pixels[20:70, 30:80] = (200, 40, 40, 255)
    Image.fromarray(pixels).save(folder / "cut.png")
    plain = np.full((80, 80, 3), 250, np.uint8)
    plain[25:60, 20:55] = (30, 60, 200)
    Image.fromarray(plain).save(folder / "plain.jpg")
    (folder / "broken.png").write_bytes((folder / "cut.png").read_bytes()[:60])
    return folder


def flags(weights, image, output, *more):
    return ["--config", "sv3d_tiny", "--ckpt", str(weights), "--image", str(image), "--output", str(output),
            "--num-frames", str(VIEWS), "--steps", "2", *more]


def quickly(image, output):
    return ["--image", str(image), "--output", str(output), "--mode", "pynative"]


def test_folder_of_images(small, photos, tmp_path, capsys):
    output = tmp_path / "out"
    argv = [*small, "--image", str(photos), "--output", str(output), "--steps", "2"]
    assert command.run([*argv, "--preview", "1"]) == 1
    said = capsys.readouterr()
    assert "broken.png" in said.err and "Traceback" not in said.err
    assert sorted(p.name for p in output.iterdir() if p.is_dir()) == ["cut_23", "plain_23"]
    folder = output / "cut_23"
    expected = {"000.png", "001.png", "002.png", "transforms.json", "run.json", "views.mp4", "views.gif", "contact.png",
                "orbit.png", "input.png", "input_matte.png"}
    assert {p.name for p in folder.iterdir()} == expected
    assert np.array_equal(np.asarray(Image.open(folder / "002.png")), np.asarray(Image.open(folder / "input.png")))
    cameras = read_transforms(folder)
    np.testing.assert_allclose(cameras.azimuths_deg, [120, 240, 0])
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 23 and record["steps"] == 2 and set(record["stages"]) == {"condition", "sample", "decode"}
    assert record["checkpoint"]["hash"].startswith("sha256:")
    assert not list(output.glob("*.preview.png"))       # it shows what is there now
    before = (folder / "run.json").stat().st_mtime_ns
    command.run(argv)
    assert "skipped" in capsys.readouterr().out and (folder / "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("extra, names", [
    (["--background", "blue"], "--background"),
    (["--elevations", "0,95,0"], "--elevations"),
    (["--azimuths", "200,100,0"], "--azimuths"),
    (["--azimuths", "100,0"], "--azimuths"),
    (["--orbit", "sine-x"], "--orbit"),
    (["--orbit", "nowhere.json"], "nowhere.json"),
    (["--set", "unet.model_chanels=64"], "model_channels"),
    (["--size", "65"], "height"),
    (["--format", "avi"], "--format"),
    (["--dtype", "bf16"], "--dtype"),
    (["--ckpt", "nowhere.safetensors"], "nowhere.safetensors"),
    (["--image", "nowhere.png"], "nowhere.png"),
])
def test_bad_input_is_one_line(weights, photos, tmp_path, capsys, extra, names):
    assert command.run(flags(weights, photos / "cut.png", tmp_path / "out", *extra)) == 2
    error = capsys.readouterr().err.strip()
    assert names in error and "\n" not in error


@pytest.mark.parametrize("extra", [["--steps", "0"], ["--decode-chunk", "0"], ["--frame-ratio", "1.5"], ["--seeds", "3-1"]])
def test_flags_out_of_range(weights, photos, tmp_path, capsys, extra):
    with pytest.raises(SystemExit) as stop:
        command.run(flags(weights, photos, tmp_path, *extra))
    assert stop.value.code == 2 and extra[0] in capsys.readouterr().err


def test_output_that_is_a_file(weights, photos, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert command.run(flags(weights, photos / "cut.png", tmp_path / "taken")) == 2
    assert "taken" in capsys.readouterr().err


def test_same_seed_whatever_the_chunk_and_the_guidance_order(small, photos, pynative):
    engine = load_model(small[1], small[3])
    image = Image.open(photos / "cut.png")
    from sgm.views.cameras import Orbit
    orbit = Orbit.static(num_frames=VIEWS)
    one, two, other = (generate(engine, image, orbit, seed, steps=2, decode_chunk=chunk, sequential=sequential).frames
                       for seed, chunk, sequential in ((1, 3, False), (1, 2, True), (2, 3, False)))
    assert np.abs(one.astype(int) - two).max() <= 1     # rounding of the last bit
    assert np.abs(one.astype(int) - other).max() > 1


def test_a_chunk_that_does_not_fit_is_halved(weights, photos, monkeypatch, pynative):
    engine = load_model("sv3d_tiny", weights, overrides=[f"num_frames={VIEWS}"])
    chunks = []

    def decode(z, chunk):
        chunks.append(chunk)
        if chunk > 1:
            raise RuntimeError("Memory not enough")
        return np.zeros((len(z), 3, 64, 64), np.float32)

    monkeypatch.setattr(engine, "decode", decode)
    monkeypatch.setattr(engine, "sample", lambda noise, *rest: Tensor(noise))
    from sgm.views.cameras import Orbit
    generate(engine, Image.open(photos / "cut.png"), Orbit.static(num_frames=VIEWS), decode_chunk=6)
    assert chunks == [6, 3, 1]


def test_nan_names_its_stage(small, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Engine, "sample", lambda self, noise, *rest: Tensor(noise * np.nan))
    assert command.run([*small, *quickly(photos / "cut.png", tmp_path / "out")]) == 1
    assert "sample" in capsys.readouterr().err


def test_interrupted(small, photos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(Engine, "sample", stop)
    assert command.run([*small, *quickly(photos / "cut.png", tmp_path / "out")]) == 130
    assert not list((tmp_path / "out").glob("*"))


def test_frames_that_are_no_squares_have_their_own_cameras(tmp_path):
    """--size 48x64 --no-matte: what the command saves then."""
    frames = np.full((3, 48, 64, 3), 255, np.uint8)
    frames[:, 10:30, 20:40] = 90
    source = np.dstack([frames[-1], np.where(frames[-1, ..., 0] < 255, 255, 0).astype(np.uint8)])
    folder = Views(frames, source, Orbit.static(num_frames=3)).save(tmp_path / "views", formats=("gif",))
    lens = read_transforms(folder).lens
    assert (lens.width, lens.height, lens.cx, lens.cy) == (64, 48, 32, 24) == (*Image.open(folder / "001.png").size, 32, 24)
    assert lens.fl_x == lens.fl_y == pytest.approx(24 / np.tan(np.radians(16.9)))


@cache
def engine_of(model, ckpt, dtype, changes, lora):
    return load_model(model, ckpt, dtype, changes, lora)


@pytest.fixture
def cup(tmp_path, quick, monkeypatch):
    """A photo, flags that make its views without a network, the folder they are in. Engines are made once."""
    monkeypatch.setattr("sgm.diffusion.pipeline.load_model",
                        lambda model, ckpt, dtype, changes, lora, ema=False: engine_of(model, ckpt, dtype, tuple(changes), lora))
    photo, out = tmp_path / "cup.png", tmp_path / "out"
    object_on_white().save(photo)
    return photo, ["--image", str(photo), "--output", str(out), "--num-frames", "3", "--format", "png"], out / "cup_23"


OTHER_FLAGS = [
    ("--steps 5", "steps 3, now 5"), ("--sampler heun", "sampler 'euler', now 'heun'"),
    ("--guidance -1 2.5", "guidance.min 1.0, now -1.0; guidance.max 1.0, now 2.5"), ("--cond-aug 0.1", "cond_aug 1e-05, now 0.1"),
    ("--elevation -5", "orbit.elevations_deg [10.0, 10.0, 10.0], now [-5.0, -5.0, -5.0]"),
    ("--elevations -5,0,10", "now [-5.0, 0.0, 10.0]"), ("--azimuth-sign -1", "orbit.azimuth_sign 1, now -1"),
    ("--no-matte", "image.matte True, now False"), ("--frame-ratio 0.5", "image.frame_ratio None, now 0.5"),
    ("--background white", "output.background 'transparent', now [255, 255, 255]"), ("--fps 7", "output.fps 6, now 7"),
    ("--format mp4,png", "output.formats ['png'], now ['mp4', 'png']"), ("--dtype fp16", "dtype 'Float32', now 'Float16'"),
    ("--set sampling.start_noise=0.5", "settings.sampling.start_noise 0.25, now 0.5")]


def test_a_finished_folder_of_other_flags_is_no_success(cup, capsys):
    _, argv, folder = cup
    assert command.run(argv) == 0
    before = (folder / "run.json").stat().st_mtime_ns
    for flags, said in OTHER_FLAGS:
        capsys.readouterr()
        code = command.run([*argv, *flags.split()])
        error = capsys.readouterr().err
        assert code == 2 and f"{folder}: its views were made otherwise (" in error and said in error, flags
        assert error.endswith("; --overwrite makes it again, or give another folder\n") and error.count("\n") == 1
    assert (folder / "run.json").stat().st_mtime_ns == before


def test_a_finished_folder_is_skipped_or_made_again(cup, capsys):
    photo, argv, folder = cup
    assert command.run(argv) == 0
    (folder / "mesh").mkdir()
    (folder / "mesh" / "mesh.glb").write_text("mine")
    record = json.loads((folder / "run.json").read_text())
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    assert record["image"] == {"file": "cup.png", "hash": f"sha256:{digest}", "frame_ratio": None, "matte": True,
                               "cut_out": "border: plain background (rembg is not installed)"}
    for same in ([], ["--decode-chunk", "2", "--sequential-cfg"], ["--config", "sv3d_tiny"]):
        capsys.readouterr()
        assert command.run([*argv, *same]) == 0
        assert capsys.readouterr().out == f"{folder}: finished already, skipped (--overwrite makes it again)\n"
    object_on_white(64).save(photo)             # another picture of the same name
    code = command.run(argv)
    assert code == 2 and f"image.hash 'sha256:{digest}'" in capsys.readouterr().err
    assert command.run([*argv, "--overwrite", "--num-frames", "2"]) == 0
    assert json.loads((folder / "run.json").read_text())["settings"]["num_frames"] == 2
    assert not (folder / "002.png").exists() and (folder / "mesh" / "mesh.glb").read_text() == "mine"


def test_the_others_are_made(cup, capsys):
    """One finished folder of other flags does not stop the images behind it."""
    photo, argv, folder = cup
    assert command.run(argv) == 0
    object_on_white().save(photo.with_name("jar.png"))
    argv[1] = str(photo.parent)
    assert command.run([*argv, "--steps", "5"]) == 1
    assert (folder.with_name("jar_23") / "run.json").exists() and "cup_23: its views were made otherwise" in capsys.readouterr().err


def test_a_model_needs_its_weights(cup, capsys):
    _, argv, _ = cup
    assert command.run([*argv, "--config", "sv3d_p"]) == 2
    assert "--ckpt: found none for sv3d_p, expected its weights" in capsys.readouterr().err


def test_the_average_of_the_weights_is_asked_for(photo, tmp_path, capsys, monkeypatch):
    """--ema reaches load_model, which takes it (tests/checkpoints/foreign)."""
    from sgm.diffusion import pipeline
    signature, asked = inspect.signature(pipeline.load_model), []

    def load_model(*args, **options):
        asked.append(signature.bind(*args, **options).arguments.get("ema", False))
        raise ConfigError("no further")
    monkeypatch.setattr(pipeline, "load_model", load_model)
    argv = ["--config", "sv3d_p", "--ckpt", "x.safetensors", "--image", str(photo), "--output", str(tmp_path / "out")]
    assert command.run(argv) == command.run([*argv, "--ema"]) == 2 and asked == [False, True]


# --- several images: the one before is written and the next is prepared while one is sampled -------------------------

@pytest.fixture
def three(cup, monkeypatch):
    """three(act) -> (flags, output): a.png, b.png, c.png, and act(name) is called where each of them would be sampled."""
    photo, argv, folder = cup
    images = photo.parent / "images"
    images.mkdir()
    for name in "abc":
        object_on_white().save(images / f"{name}.png")
    argv[1] = str(images)

    def sampled_by(act):
        from sgm.diffusion import pipeline
        usual = pipeline.generate_views
        names = iter("abc")

        def generate_views(*args, **callbacks):
            act(next(names))
            return usual(*args, **callbacks)
        monkeypatch.setattr(pipeline, "generate_views", generate_views)
        return argv, folder.parent
    return sampled_by


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path}: not there after 30 s"
        time.sleep(0.005)


def test_an_image_is_written_and_the_next_one_prepared_meanwhile(three, capsys):
    def act(name):      # without overlap this waits for ever
        if name == "b":
            wait_for(out / "a_23" / "run.json")
        if name != "c":
            wait_for(out / f".{chr(ord(name) + 1)}_23.lock")
    argv, out = three(act)
    assert command.run(argv) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a_23", "b_23", "c_23"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith((str(out), "1 of", "2 of", "3 of"))]
    assert [line for line in said if line.startswith(str(out))] == [f"{out}/{name}_23" for name in "abc"]
    assert [line[:6] for line in said if " of " in line] == ["1 of 3", "2 of 3", "3 of 3"]


def test_ctrl_c_leaves_what_is_sampled(three, capsys):
    """At the third image, when the second one may not be written yet."""
    def act(name):
        if name == "c":
            raise KeyboardInterrupt
    argv, out = three(act)
    assert command.run(argv) == 130
    assert sorted(path.name for path in out.iterdir()) == ["a_23", "b_23"]          # and no lock
    assert all((out / name / "run.json").exists() for name in ("a_23", "b_23"))


def test_a_bad_image_between_others_is_one_line(three, capsys):
    argv, out = three(lambda name: None)
    (Path(argv[1]) / "b.png").write_bytes(b"no image")
    assert command.run(argv) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a_23", "c_23"]
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"{argv[1]}/b.png: found no image of a known kind")


def test_a_full_disk_ends_it(three, monkeypatch, capsys):
    def save(*args):
        raise OSError(errno.ENOSPC, "No space left on device")
    argv, out = three(lambda name: sampled.append(name))
    sampled = []
    monkeypatch.setattr(Views, "_write", save)
    assert command.run(argv) == 2 and sampled == ["a", "b"]
    assert capsys.readouterr().err.endswith(f"--output {out}/a_23: cannot be written: No space left on device; free space, or"
                                            " write to another disk\n")
    assert not list(out.iterdir())


class Estimator:
    """Tells more degrees of taller objects."""

    def elevation_of(self, picture):
        left, top, right, bottom = picture.getbbox()
        return 33.333 * (bottom - top) / (right - left)


def test_elevation_is_told_by_each_picture(small, photos, tmp_path, monkeypatch, capsys):
    from sgm.feedforward import reconstructor
    loaded = []
    monkeypatch.setattr(reconstructor, "load_lrm", lambda: loaded.append(1) or Estimator())
    tall = np.zeros((120, 120, 4), np.uint8)
    tall[10:110, 20:70] = (40, 200, 40, 255)
    Image.fromarray(tall).save(photos / "tall.png")
    output = tmp_path / "out"
    argv = [*small, "--image", str(photos), "--output", str(output), "--steps", "1", "--mode", "pynative",
            "--elevation", "auto"]
    assert command.run(argv) == 1 and "broken.png" in capsys.readouterr().err
    assert loaded == [1]
    for name, degrees in (("cut", 33.3), ("tall", 66.7)):
        run = json.loads((output / f"{name}_23" / "run.json").read_text())
        assert run["image"]["elevation_estimate"] == degrees
        assert set(run["orbit"]["elevations_deg"]) == {degrees}
    assert command.run(argv) == 1                           # finished folders are those of the same estimate
    assert "finished already" in capsys.readouterr().out
    assert command.run([*argv[:-1], "33.3"]) == 1           # but not those of another wish
    assert "made otherwise" in capsys.readouterr().err


def test_a_picture_that_tells_no_elevation_is_not_taken_for_level(small, tmp_path, monkeypatch, capsys):
    """Its object is too small to be cut out, which --no-matte alone would not notice."""
    from sgm.feedforward import reconstructor
    monkeypatch.setattr(reconstructor, "load_lrm", Estimator)
    pixels = np.zeros((80, 80, 4), np.uint8)
    pixels[40:43, 40:43] = 255
    Image.fromarray(pixels).save(tmp_path / "dot.png")
    argv = [*small, "--image", str(tmp_path / "dot.png"), "--output", str(tmp_path / "out"), "--no-matte", "--steps", "1",
            "--mode", "pynative", "--elevation"]
    assert command.run([*argv, "auto"]) == 2 and "dot.png: the object" in capsys.readouterr().err
    assert command.run([*argv, "10"]) == 0


def test_elevation_auto_without_an_estimator(small, photos, tmp_path, monkeypatch, capsys):
    from sgm.feedforward import reconstructor
    monkeypatch.setattr(reconstructor, "EMBEDDED", ("lrm_small", tmp_path / "none.safetensors"))
    assert command.run([*small, "--image", str(photos), "--output", str(tmp_path / "out"), "--elevation", "auto"]) == 2
    said = capsys.readouterr().err
    assert "--elevation auto" in said and "give degrees" in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_bad_image_of_one_process_does_not_end_the_other(three):
    """Two processes of msrun, which kills all when one of them ends with another exit code than 0."""
    argv, out = three(lambda name: None)
    (Path(argv[1]) / "a.png").write_bytes(b"no image")          # the first one's, which then has "c" only
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["msrun", "--worker_num=2", "--local_worker_num=2", "--join=True", "--master_port=8235",
                           f"--log_dir={out.parent / 'logs'}", "simple_video_sample.py", *argv, "--steps", "1", "--mode",
                           "pynative"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["b_23", "c_23"]
    logs = [(out.parent / "logs" / f"worker_{rank}.log").read_text() for rank in (0, 1)]
    assert "a.png: found no image" in logs[0] and f"{out}/c_23\n" in logs[0]
    assert f"{out}/b_23\n" in logs[1] and "c_23" not in logs[1]
