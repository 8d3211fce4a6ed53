"""train.py from its flags to its files, on an autoencoder small enough to compile in seconds."""
import csv
import json
import os
import shutil
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from support.commands import ending, tree
from support.processes import running, stop, wait_until
from support.training import flags, write_toys

import train
from sgm.checkpoints.loading import file_hash
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.config.model import ModelSpec
from sgm.config.recipe import Recipe
from sgm.config.yaml_reader import ConfigError
from sgm.train.run.beginning import check_init, note_resumption, read_beginning, write_beginning
from sgm.train.run.run_folder import numbers_of


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
    assert "at step 2; steps: 2, now 3\n" in capsys.readouterr().out
    assert steps_of(output) == [1, 2, 3]
    assert train.run(["--resume", str(output)]) == 0    # nothing is left to do: it knows of the three steps
    assert "finished already: give --set steps=N" in capsys.readouterr().out
    assert steps_of(output) == [1, 2, 3]
    after = yaml.safe_load((output / "config.yaml").read_text())
    assert {key: after[key] for key in config} == config            # what began it
    assert after["changes"] == {"steps": 3} and [note[:10] for note in after["resumed"]] == ["at step 2:", "at step 3:"]


def resuming(output, *more):
    """What train.py would train: (spec, recipe)."""
    args = train.parse(["--resume", str(output), *map(str, more)])
    return train.configure(args)[:2]


def test_a_resumed_run_has_its_own_model_and_recipe(toys, output):
    """Whatever --set began it; what is given again changes that."""
    config = yaml.safe_load((output / "config.yaml").read_text())
    for more in ([], ["--train_cfg", "vae_tiny"], ["--model_cfg", "sv3d_tiny"], ["--train_cfg"], ["--set", "steps=2"]):
        spec, recipe = resuming(output, *more)
        assert (asdict(recipe), asdict(spec)) == (config["recipe"], config["model"]), more
    assert resuming(output, "--set", "steps=9")[1] == replace(recipe, steps=9)
    # As an earlier version wrote it: the command alone.
    for key in ("set", "model_set", "init"):
        del config[key]
    config["command"] = ["train.py", *vae(toys, output, "steps=2", "keep=2", f"val=[{toys}]")]
    (output / "config.yaml").write_text(yaml.safe_dump(config))
    assert asdict(resuming(output, "--train_cfg", "vae_tiny", "--model_cfg", "sv3d_tiny")[1]) == config["recipe"]


@pytest.mark.parametrize("more, said", [
    (["--set", "lr=1"], "its run had other settings: lr: 0.0015, now 1.0; give the same"),
    (["--train_cfg", "decoder_tiny"], "its run had other settings: "),
    (["--model-set", "clip.layers=3"], "clip.layers: 2, now 3"),
    (["--model_cfg", "sv3d_u"], "its run had other settings: "),
    (["--init", "state.safetensors"], "is not what the run in RUN began with, random weights; leave out --init"),
    (["--output", "elsewhere"], "found another folder than --resume")])
def test_flags_given_again_are_compared(more, said, output, capsys, monkeypatch):
    monkeypatch.chdir(output)
    before = tree(output)
    code, line = ending(train.run, ["--resume", str(output), *more], capsys)
    assert code == 2 and said.replace("RUN", str(output)) in line and tree(output) == before


@pytest.mark.parametrize("damage, said", [
    (lambda path: path.unlink(), "found no config.yaml in it, expected the folder of a run"),
    (lambda path: path.write_text("recipe: 3\nmodel: {}"), "config.yaml: recipe: found 3, expected a dict"),
    (lambda path: path.write_text("recipe: {lr: x}\nmodel: {}"), "config.yaml: recipe: lr: found 'x', expected float"),
    (lambda path: path.write_text(""), "expected a mapping (key: value); it is damaged, or of no run of train.py: move it away"),
    (lambda path: path.write_text("model: {}"), "config.yaml: recipe: found nothing, expected a dict; it is damaged")])
def test_what_began_a_run_is_damaged(damage, said, output, capsys):
    damage(output / "config.yaml")
    code, line = ending(train.run, ["--resume", str(output)], capsys)
    assert code == 2 and said in line


def test_a_run_keeps_its_first_weights(output, monkeypatch):
    """By their content: a copy elsewhere is the same file, another one is refused."""
    first, copy = output / "averaged.safetensors", output / "copy.safetensors"
    shutil.copy(first, copy)
    write_beginning(output, ["train.py"], Recipe(), ModelSpec(name="a"), init={"path": str(first), "hash": file_hash(first)})
    begun = read_beginning(output)
    check_init(output, begun, None, file_hash)
    check_init(output, begun, copy, file_hash)
    for other in (output / "state.safetensors", output / "gone.safetensors"):
        with pytest.raises(ConfigError, match=f"--init {other}: is not what the run in .* began with, {first}"):
            check_init(output, begun, other, file_hash)
    note_resumption(output, ["train.py", "--resume", output], 4, Recipe(steps=7))
    assert read_beginning(output).init == begun.init and read_beginning(output).recipe == Recipe(steps=7)
    monkeypatch.setattr("sgm.train.run.beginning.MOST_NOTES", 3)        # one that is resumed every hour stays readable
    for step in range(5):
        note_resumption(output, ["train.py", "a b"], step, Recipe())
    assert read_beginning(output).recipe == Recipe()
    notes = yaml.safe_load((output / "config.yaml").read_text())["resumed"]
    assert notes == [f"at step {step}: train.py 'a b'" for step in (2, 3, 4)]


def test_the_decoder_alone(toys, finished, tmp_path, uncompiled):
    """It learns from --init on, and the encoder stays: latents made before remain valid."""
    first, again = finished, tmp_path / "again"
    assert train.run(vae(toys, again, "steps=1", "trains=decoder",
                         more=["--init", first / "averaged.safetensors"])) == 0
    before, after = (open_checkpoint(run / "averaged.safetensors") for run in (first, again))
    changed = {key for key in before if (before.read(key) != after.read(key)).any()}
    assert changed and all(key.startswith("first_stage_model.") for key in changed)


def with_weights(output, value):
    """The state of a run with all values of a layer changed."""
    path = output / "state.safetensors"
    checkpoint = open_checkpoint(path)
    arrays = {key: checkpoint.read(key).copy() for key in checkpoint}
    arrays["first_stage_model.decoder.conv_in.weight"][:] = value
    save_safetensors(path, arrays, checkpoint.metadata)


def test_losses_that_are_no_numbers_end_a_run(toys, output, capsys, uncompiled):
    """It stops by itself, names the clips, and the last good checkpoint stays."""
    with_weights(output, 3e38)
    before = {name: content for name, content in tree(output).items() if name.endswith("safetensors")}
    capsys.readouterr()
    code = train.run(vae(toys, output, "steps=50", "bad_steps=3", more=["--resume"]))
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "train.py: step 5: found the loss nan" in said and "3 steps in a row" in said and "clips " in said
    assert {name: content for name, content in tree(output).items() if name.endswith("safetensors")} == before


def changed_state(folder, **changes):
    """A state of one array, of three steps, with other numbers; -> the checkpoint."""
    numbers = {"step": 3, "updates": 2, "skipped": 1, "bad": 0, "best": None, "scale": {"value": 1.0, "good": 0}, "world": 1,
               "recipe": {}, "model": {}}
    path = folder / "state.safetensors"
    save_safetensors(path, {"a": np.zeros(3, np.float32)}, {"step": "3", "run": json.dumps({**numbers, **changes})})
    return open_checkpoint(path)


@pytest.mark.parametrize("changes, said", [
    ({"step": -3}, "has -3 as step"), ({"step": 10 ** 12, "updates": 10 ** 12 - 1}, "has 1000000000000 as step"),
    ({"step": 3.0}, "has 3.0 as step"), ({"step": True}, "has True as step"), ({"updates": 3}, "which does not add up"),
    ({"step": 4, "updates": 3}, "which does not add up"), ({"bad": -1}, "has -1 as bad"), ({"best": float("nan")}, "as best"),
    ({"scale": {"value": 0.0, "good": 0}}, "as scale"), ({"scale": 1}, "as scale"), ({"world": 0}, "has 0 as world"),
    ({"recipe": []}, "as recipe"), ({"model": None}, "as model")])
def test_numbers_of_a_state_that_cannot_be(changes, said, tmp_path):
    assert numbers_of(changed_state(tmp_path))["step"] == 3
    with pytest.raises(CheckpointError, match="state.safetensors: its metadata .*; it is damaged") as refusal:
        numbers_of(changed_state(tmp_path, **changes))
    assert said in str(refusal.value)


def test_missing_data_and_weights_come_before_networks(toys, tmp_path, capsys, monkeypatch):
    """34 seconds of drawing weights went before the line on a path."""
    def start(*args):
        raise AssertionError("networks were built")
    monkeypatch.setattr("sgm.train.build.start", start)
    for model, recipe, more, said in (
            ("sv3d_p", "sv3d_p", ["data=[nowhere]"], "data: nowhere: no such file or folder"),
            ("sv3d_p", "sv3d_lora", ["data=[nowhere]"], "--init is missing: a LoRA is a small change of a model's weights"),
            ("sv3d_tiny", "decoder_tiny", ["data=[nowhere]"], "data: nowhere: no such file or folder"),
            ("sv3d_p", "sv3d_p", [f"data=[{toys}]", "background=white"], "has views of 32 pixels")):
        argv = ["--model_cfg", model, "--train_cfg", recipe, "--output", tmp_path / "run"]
        argv += [word for change in more for word in ("--set", change)]
        code, line = ending(train.run, argv, capsys)
        assert code == 2 and said in line and not (tmp_path / "run").exists()
    code, line = ending(train.run, [*vae(toys, tmp_path / "run"), "--init", "nowhere.safetensors"], capsys)
    assert code == 2 and "--init nowhere.safetensors: no such file or folder" in line


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


def test_an_interrupt_says_how_to_go_on(output, capsys, monkeypatch):
    monkeypatch.setattr(train, "fit", lambda *_: True)
    assert train.run(["--resume", str(output), "--set", "steps=9"]) == 130
    assert f"train.py: interrupted at step 2; train.py --resume {output} continues" in capsys.readouterr().err


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
