"""train.py from its flags to its files, on an autoencoder small enough to compile in seconds."""
import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
import yaml
from support.commands import ending, tree
from support.processes import running, stop, wait_until
from support.training import flags, write_toys

import train
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return write_toys(tmp_path_factory.mktemp("data") / "toys")


@pytest.fixture(scope="module")
def finished(toys, tmp_path_factory):
    """The folder of a run of two steps, without graphs."""
    output = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgm.ops.compiled", lambda function: function)
        assert train.run(vae(toys, output, "steps=2", "keep=2", f"val=[{toys}]")) == 0
    return output


@pytest.fixture
def output(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "run")


def vae(toys, output, *changes, more=()):
    return flags("sv3d_tiny", "vae_tiny", toys, output, "crop=16", "seed=0", "lr=0.0015", *changes, more=more)


def steps_of(run):
    with open(run / "metrics.csv") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_train_and_resume(toys, output, capsys, uncompiled):
    assert {p.name for p in output.iterdir()} - {"tensorboard"} == {      # which is there if tensorboardX is
        "averaged.safetensors", "averaged_00000001.safetensors", "averaged_00000002.safetensors", "best.safetensors",
        "state.safetensors", "config.yaml", "metrics.csv", "curve.png"}
    keys = set(open_checkpoint(output / "averaged.safetensors"))
    assert "first_stage_model.decoder.conv_in.weight" in keys
    assert not any(key.startswith("model.") for key in keys)    # an autoencoder's training leaves the UNet out
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert config["recipe"]["crop"] == 16 and config["model"]["vae"]["z_channels"] == 2
    with open(output / "metrics.csv") as file:
        assert all(float(row["val_loss"]) > 0 for row in csv.DictReader(file))
    capsys.readouterr()
    assert train.run(vae(toys, output, "steps=3", "keep=2")) == 2 and "--resume" in capsys.readouterr().err
    before = tree(output)
    assert train.run(vae(toys, output, "steps=3", "keep=2", "lr=1", "seed=4", more=["--resume"])) == 2
    said = capsys.readouterr().err
    assert "its run had other settings: seed: 0, now 4; lr: 0.0015, now 1.0; give the same" in said
    assert tree(output) == before
    with open(output / "metrics.csv", "a") as file:     # as if it had been killed later, in the middle of a row
        file.write("3,1.0,1.0,1e-3,9.9,1.0,0,\n4,1.0,")
    assert train.run(vae(toys, output, "steps=3", "keep=2", more=["--resume", output])) == 0
    assert "at step 2; val: " in (said := capsys.readouterr().out) and "; steps: 2, now 3\n" in said
    assert steps_of(output) == [1, 2, 3]
    assert train.run(vae(toys, output, "steps=3", "keep=2", more=["--resume"])) == 0    # nothing is left to do
    assert steps_of(output) == [1, 2, 3]


def test_the_decoder_alone(toys, finished, tmp_path, uncompiled):
    """It learns from --init on, and the encoder stays: latents made before remain valid."""
    first, again = finished, tmp_path / "again"
    assert train.run(vae(toys, again, "steps=1", "trains=decoder",
                         more=["--init", first / "averaged.safetensors"])) == 0
    before, after = (open_checkpoint(run / "averaged.safetensors") for run in (first, again))
    changed = {key for key in before if (before.read(key) != after.read(key)).any()}
    assert changed and all(key.startswith("first_stage_model.") for key in changed)


def test_weights_that_are_no_numbers_end_a_run(toys, output, capsys, uncompiled):
    """It stops by itself, names the clips, and the last good checkpoint stays."""
    path = output / "state.safetensors"
    checkpoint = open_checkpoint(path)
    arrays = {key: checkpoint.read(key).copy() for key in checkpoint}
    arrays["first_stage_model.decoder.conv_in.weight"][:] = float("nan")
    save_safetensors(path, arrays, checkpoint.metadata)
    before = {name: content for name, content in tree(output).items() if name.endswith("safetensors")}
    capsys.readouterr()
    code = train.run(vae(toys, output, "steps=50", "bad_steps=3", more=["--resume"]))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "train.py: step 5: found the loss nan" in said and "3 steps in a row" in said and "clips " in said
    assert {name: content for name, content in tree(output).items() if name.endswith("safetensors")} == before


@pytest.mark.parametrize("model, expected", [
    ("configs/sampling/sv3d_u.yaml", ["sv3d_u, 21 frames of 576 x 576", "105000, each of 64 clips",
                                      "not yet: data: data/static", "runs/sv3d_u"]),
    ("sv3d_p", ["1525.28 M parameters (68.1 %)", "50000, each of 64 clips", "runs/sv3d_p"]),
    ("svd_xt", ["svd_xt, 25 frames of 576 x 1024", "50000, each of 16 clips", "not yet: data: data/videos", "runs/svd_xt"])])
def test_dry_run_of_the_models_own_recipe(model, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.run(["--model_cfg", model, "--train_cfg", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert all(part in said for part in expected), said
    assert not list(tmp_path.iterdir())


def test_dry_run_with_data(toys, tmp_path, capsys):
    assert train.run(vae(toys, tmp_path / "run", "steps=10", more=["--dry-run"])) == 0
    assert "4 clips, each seen 5.0 times" in capsys.readouterr().out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("change, named", [
    (["--set", "data=[nowhere]"], "nowhere"), (["--set", "stepz=3"], "stepz"), (["--set", "steps=0"], "steps: found 0"),
    (["--set", "trains=temporal"], "trains: found 'temporal', expected one of all, decoder for task autoencoder"),
    (["--set", "crop=100"], "crop: found 100, expected a multiple of"), (["--set", "seed=-1"], "seed: found -1"),
    (["--set", "lr=inf"], "lr: found inf"), (["--train_cfg", "nowhere"], "nowhere"),
    (["--init", "nowhere.safetensors"], "nowhere.safetensors"), (["--resume"], "found no state.safetensors in it"),
    (["--resume", "elsewhere"], "found another folder than --resume elsewhere"),
    (["--device-id", "x"], "argument --device-id"), (["--stps", "3"], "unrecognized arguments: --stps 3"),
    (["--model-set", "vae.decoder=temporal"], "task: found autoencoder for sv3d_tiny, whose decoder is over time"),
])
def test_bad_input_is_one_line(toys, tmp_path, capsys, change, named):
    code, said = ending(train.run, [*vae(toys, tmp_path / "run", "steps=2"), *change], capsys)
    assert code == 2 and named in said and not (tmp_path / "run").exists()


def test_states_of_something_else(toys, tmp_path, capsys):
    """Without what a run notes: no KeyError."""
    output = tmp_path / "run"
    for metadata in ({}, {"step": "3"}, {"run": "{"}, {"run": json.dumps({"step": 1})}, {"run": "3"}):
        output.mkdir(exist_ok=True)
        save_safetensors(output / "state.safetensors", {"a": np.zeros(3, np.float32)}, metadata)
        code, said = ending(train.run, vae(toys, output, "steps=2", more=["--resume"]), capsys)
        assert code == 2 and f"{output / 'state.safetensors'}: its metadata" in said and "expected the state of a run" in said


# --- processes that end before their time ------------------------------------------------------------------------------

def test_full_disk_while_saving(toys, output):
    """The checkpoint before stays whole."""
    before = {name: content for name, content in tree(output).items() if name.endswith("safetensors")}
    argv = ["train.py", *vae(toys, output, "steps=3", more=["--resume"])]
    with running(argv, largest_file=200_000) as process:
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "Traceback" not in said, said
    assert f"train.py: {output / 'averaged.safetensors'}: cannot be written (File too large, " in said
    after = {name: content for name, content in tree(output).items() if name.endswith("safetensors")}
    assert after == before and not list(output.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_bit_for_bit(number, toys, tmp_path):
    """Killed or stopped at some step: the rows and the weights are those of a run that nobody disturbed."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    changes = "steps=12", "save_every=2"
    assert train.run(vae(toys, whole, *changes)) == 0
    for least in (3, 7):
        with running(["train.py", *vae(toys, broken, *changes, more=["--resume"] if least > 3 else [])]) as process:
            wait_until(lambda: (broken / "metrics.csv").exists() and len(steps_of(broken)) >= least, process, "no rows")  # noqa: B023
            code, said = stop(process, number)
        assert code == (130 if number == signal.SIGINT else -number) and "Traceback" not in said
    assert train.run(vae(toys, broken, *changes, more=["--resume"])) == 0
    rows = []
    for run in (whole, broken):
        with open(run / "metrics.csv") as file:
            rows.append([(row["step"], row["loss"], row["grad_norm"], row["lr"]) for row in csv.DictReader(file)])
    assert rows[0] == rows[1] and len(rows[0]) == 12
    ours, theirs = (open_checkpoint(run / "state.safetensors") for run in (whole, broken))
    assert set(ours) == set(theirs) and all((ours.read(key) == theirs.read(key)).all() for key in ours)
    assert os.path.exists(broken / "averaged.safetensors")
