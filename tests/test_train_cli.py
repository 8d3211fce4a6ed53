"""train.py from its flags to its files, on an autoencoder small enough to compile in seconds."""
import csv

import numpy as np
import pytest

import train
from sgm.checkpoint import open_checkpoint

SMALL = ["vae.ch_mult=[1,1]", "vae.z_channels=2", "unet.in_channels=4", "unet.out_channels=2", "height=32", "width=32"]


@pytest.fixture
def toys(tmp_path):
    """Four clips of three views of noise, as tools/render_orbits.py --pack writes them."""
    folder = tmp_path / "toys"
    folder.mkdir()
    rng = np.random.RandomState(0)
    np.save(folder / "clips.npy", rng.randint(0, 256, (4, 3, 32, 32, 3)).astype(np.uint8))
    np.save(folder / "azimuths.npy", np.tile(np.float32([120, 240, 0]), (4, 1)))
    np.save(folder / "elevations.npy", np.full((4, 3), 10, np.float32))
    return folder


def flags(toys, output, steps, *more):
    values = [f"data=[{toys}]", f"steps={steps}", "batch=2", "crop=16", "save_every=1", "log_every=1"]
    command = ["--model_cfg", "sv3d_tiny", "--train_cfg", "vae_tiny", "--output", str(output), *more]
    for value in values:
        command += ["--set", value]
    for value in SMALL:
        command += ["--model-set", value]
    return command


def test_train_and_resume(toys, tmp_path, capsys):
    output = tmp_path / "run"
    assert train.run(flags(toys, output, 2)) == 0
    assert {p.name for p in output.iterdir()} == {"averaged.safetensors", "state.safetensors", "config.yaml", "metrics.csv",
                                                     "curve.png"}
    keys = set(open_checkpoint(output / "averaged.safetensors"))
    assert "first_stage_model.decoder.conv_in.weight" in keys
    assert not any(key.startswith("model.") for key in keys)    # an autoencoder's training leaves the UNet out
    assert train.run(flags(toys, output, 3)) == 2 and "--resume" in capsys.readouterr().err
    assert train.run(flags(toys, output, 3, "--resume")) == 0
    with open(output / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_the_decoder_alone(toys, tmp_path):
    """It learns from --init on, and the encoder stays: latents made before remain valid."""
    first, again = tmp_path / "run", tmp_path / "again"
    assert train.run(flags(toys, first, 1)) == 0
    assert train.run(flags(toys, again, 1, "--init", str(first / "averaged.safetensors"))
                     + ["--set", "trains=decoder", "--set", "warmup=1"]) == 0
    before, after = (open_checkpoint(run / "averaged.safetensors") for run in (first, again))
    changed = {key for key in before if (before.read(key) != after.read(key)).any()}
    assert changed and all(key.startswith("first_stage_model.") for key in changed)


@pytest.mark.parametrize("change, named", [
    (["--set", "data=[nowhere]"], "nowhere"),
    (["--set", "stepz=3"], "stepz"),
    (["--set", "steps=0"], "steps"),
    (["--set", "trains=temporal"], "trains"),
    (["--train_cfg", "nowhere"], "nowhere"),
    (["--init", "nowhere.safetensors"], "nowhere.safetensors"),
])
def test_bad_input_is_one_line(toys, tmp_path, capsys, change, named):
    assert train.run(flags(toys, tmp_path / "run", 2, *change) if change[0] != "--set"
                     else flags(toys, tmp_path / "run", 2) + change) == 2
    error = capsys.readouterr().err.strip()
    assert named in error and "\n" not in error
