"""Loading a model and what is noted of a run, without its network: which weights, which image."""
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from support import icc
from support.badfiles import object_on_white

import sgm
from sgm import ops
from sgm.common.errors import of_command
from sgm.diffusion import pipeline
from sgm.diffusion.engine import Engine


@pytest.fixture(scope="module")
def embedded():
    return sgm.load_model(overrides=["num_frames=3"])


@pytest.fixture
def no_network(monkeypatch):
    """The stages of an Engine return zeros."""
    monkeypatch.setattr(Engine, "_load", lambda self, part: None)
    monkeypatch.setattr(Engine, "condition", lambda self, *args, **more: ({}, {}))
    monkeypatch.setattr(Engine, "sample", lambda self, noise, *args: ops.device.ms.Tensor(noise))
    monkeypatch.setattr(Engine, "decode", lambda self, z, chunk: np.zeros((len(z), 3, 64, 64), np.float32))


def test_weights_are_the_embedded_ones(embedded, caplog):
    assert embedded.weights.path == pipeline.EMBEDDED[1] and not embedded.is_random and not caplog.text
    assert pipeline.run_record(embedded, sgm.Orbit.static(), pipeline.SampleOptions().of_model(embedded.spec))["checkpoint"] == {
        "file": "sv3d_tiny.safetensors", "hash": "sha256:" + hashlib.sha256(pipeline.EMBEDDED[1].read_bytes()).hexdigest()}


@pytest.mark.parametrize("model", ["sv3d_p", "svd_tiny", "sv3d_u"])
def test_other_models_have_none(model):
    with pytest.raises(sgm.ConfigError, match=f"^ckpt: found none for {model}, expected its weights"):
        sgm.load_model(model)


def test_random_weights_are_asked_for_warned_of_and_noted(caplog, tmp_path, no_network):
    engine = sgm.load_model(ckpt="random", overrides=["num_frames=3"])
    assert "sv3d_tiny has random weights, as ckpt random asks for: it makes noise" in caplog.text
    assert "random weights" in repr(engine)
    folder = sgm.generate(engine, object_on_white()).save(tmp_path / "cup", formats=())
    assert json.loads((folder / "run.json").read_text())["checkpoint"] == {"file": None, "hash": "random"}
    with pytest.raises(sgm.PipelineError, match="^lora: found ckpt random"):
        sgm.load_model(ckpt="random", lora="lora.safetensors")


def test_run_json_names_the_image_and_the_program(embedded, tmp_path, no_network):
    object_on_white().save(tmp_path / "cup.png")
    opened = Image.open(tmp_path / "cup.png")
    pixels = hashlib.sha256(opened.convert("RGBA").tobytes()).hexdigest()
    views = sgm.generate(embedded, opened, fps=12)
    assert isinstance(views, sgm.Views) and views.fps == 12
    record = json.loads((views.save(tmp_path / "a", formats=()) / "run.json").read_text())
    assert record["image"] == {"file": "cup.png", "pixels": f"sha256:{pixels}", "cut_out": "border: plain background (rembg is not installed)"}
    assert record["versions"]["sv3d-mindspore"] == sgm.__version__
    assert record["settings"]["num_frames"] == 3 and record["settings"]["sampling"]["start_noise"] == 0.25
    assert record["output"] == {"background": "transparent", "fps": 12, "formats": []}
    assert record["files"] == ["000.png", "001.png", "002.png", "input.png", "input_matte.png", "transforms.json", "run.json"]
    array = sgm.generate(embedded, views.source).run["image"]
    assert array == {"file": None, "pixels": f"sha256:{hashlib.sha256(views.source.tobytes()).hexdigest()}"}


def test_a_photo_is_turned_upright_as_by_the_command(embedded, tmp_path, no_network):
    picture = object_on_white()
    picture.paste((0, 0, 0), (16, 16, 24, 20))  # a corner that tells which side is up
    exif = Image.Exif()
    exif[0x0112] = 6                            # stored a quarter turn to the left
    picture.rotate(90).save(tmp_path / "cup.png", exif=exif)
    expected = sgm.generate(embedded, picture).source
    np.testing.assert_array_equal(sgm.generate(embedded, Image.open(tmp_path / "cup.png")).source, expected)
    assert np.abs(expected.astype(int) - np.rot90(expected)).max() > 50


def test_colors_of_a_photo_are_srgb(embedded, tmp_path, no_network):
    Image.new("RGB", (64, 64), (173, 62, 45)).save(tmp_path / "a.png", icc_profile=icc.profile(icc.ADOBE_RGB))
    array = np.array(Image.open(tmp_path / "a.png").convert("RGBA"))
    array[:16, :, 3] = 0                        # its own alpha: no cut-out
    Image.fromarray(array).save(tmp_path / "a.png", icc_profile=icc.profile(icc.ADOBE_RGB))
    seen = sgm.generate(embedded, Image.open(tmp_path / "a.png")).source
    assert np.abs(seen[40, 32, :3].astype(int) - (200, 60, 40)).max() <= 2


@pytest.mark.parametrize("call, said, flag", [
    (lambda engine: sgm.load_model(dtype="fp8"), "dtype: found 'fp8'", "--dtype: "),
    (lambda engine: sgm.load_model(overrides=["steps"]), "overrides steps: expected key=value", "--set steps: "),
    (lambda engine: sgm.Orbit.static(95), "elevations_deg: view 0 has 95", "--elevations: "),
    (lambda engine: sgm.Orbit([10, 0], [0]), "azimuths_deg has 2 values and elevations_deg 1", "--azimuths has "),
    (lambda engine: sgm.generate(engine, "cup.png"), "image: found a str, expected a PIL image", "image: "),
    (lambda engine: sgm.generate(engine, object_on_white(), orbit=10), "orbit: found int, expected an Orbit, such as", "orbit: "),
    (lambda engine: sgm.generate(engine, object_on_white(), fps=5000), "fps: found 5000, expected 1 to 1000", "fps: "),
    (lambda engine: ops.set_device("GPU"), "device: found 'GPU', expected one of CPU, Ascend", "--device: ")])
def test_errors_speak_of_arguments(call, said, flag, embedded):
    with pytest.raises(ValueError) as error:
        call(embedded)
    assert str(error.value).startswith(said) and "--" not in str(error.value)
    with of_command(), pytest.raises(ValueError) as error:
        call(embedded)
    assert str(error.value).startswith(flag)
