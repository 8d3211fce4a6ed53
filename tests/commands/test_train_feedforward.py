"""train.py on a feed-forward network: files, resuming, sheets, and what is refused."""
import csv
import shutil

import numpy as np
import pytest
from support.commands import ending
from support.small_lrm import CHANGES, flags, write_balls

import sgm
import train
from sgm import ops
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.common.errors import InputError
from sgm.config.recipe import Recipe
from sgm.ops import device
from sgm.train.feedforward.elevation_building import ElevationBatches
from sgm.train.objects.masked_views import MaskedViews

ONE_STAGE = ("stages=[16]", "perceptual_from=0")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Without graphs; operators are launched one by one, so there is nothing to wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgm.ops.compiled", lambda function: function)
        for module in (device, ops):
            patch.setattr(module, "wait", lambda: None)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_balls(tmp_path_factory.mktemp("data") / "balls")


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """The folder of two steps."""
    output = tmp_path_factory.mktemp("runs") / "random"
    assert train.run(flags(data, output, "steps=2", "sheet_every=2", "sheet_clips=1", *ONE_STAGE)) == 0
    return output


def weights_of(folder, name):
    store = open_checkpoint(folder / f"{name}.safetensors")
    return {key: np.array(store.read(key)) for key in store}


def test_files_of_a_run(first):
    assert {"averaged.safetensors", "best.safetensors", "state.safetensors", "val_00000002.png", "config.yaml"} <= {
        path.name for path in first.iterdir()}
    with open(first / "metrics.csv") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["val_loss"]) > 0 and 0 < float(last["val_psnr_fg"]) < 100 and 0 <= float(last["val_iou"]) <= 1
    # what it writes is what the library loads; every weight has moved, but for those of the elevation
    lrm = sgm.load_lrm("lrm_small", first / "averaged.safetensors", CHANGES)
    drawn = sgm.load_lrm("lrm_small", "random", CHANGES).parameters_dict()
    assert {key for key, p in lrm.parameters_dict().items() if (p.asnumpy() == drawn[key].asnumpy()).all()} == {
        f"elevation_head.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    with pytest.raises(InputError, match="found auto, which takes an estimator, and lrm_small has one that was not trained"):
        lrm.elevation(np.zeros((1, 5, 24), np.float32))


def test_resumed_run_is_the_same(data, first, tmp_path):
    """Bit for bit: two steps, and a third one later, are three steps (of one stage: stages are shares of all steps)."""
    whole, parts = tmp_path / "whole", shutil.copytree(first, tmp_path / "parts")
    assert train.run(flags(data, whole, "steps=3", *ONE_STAGE)) == 0
    assert train.run(["--resume", str(parts), "--set", "steps=3"]) == 0
    ours, theirs = weights_of(parts, "state"), weights_of(whole, "state")
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)


def elevation_flags(data, output, *changes, more=()):
    return ["--model_cfg", "lrm_small", "--train_cfg", "lrm_small_elevation", "--output", str(output), *map(str, more),
            *(text for change in [f"data=[{data}]", f"val=[{data}]", "batch=2", "warmup=1", "steps=2", "log_every=1", *changes]
              for text in ("--set", change)), *(text for change in CHANGES for text in ("--model-set", change))]


def test_estimator_of_the_elevation(data, first, tmp_path, capsys):
    """It learns, nothing else does; the loss is its error in degrees."""
    output, before = tmp_path / "run", first / "averaged.safetensors"
    assert train.run(elevation_flags(data, output, more=["--init", before])) == 0
    ours, theirs = weights_of(output, "averaged"), weights_of(first, "averaged")
    assert {key for key in ours if (ours[key] != theirs[key]).any()} >= {"elevation_head.mlp.2.weight", "elevation_head.mlp.2.bias"}
    assert all((ours[key] == theirs[key]).all() for key in ours if not key.startswith("elevation_head"))
    lrm = sgm.load_lrm("lrm_small", output / "averaged.safetensors", CHANGES)
    # the first step's loss: of the middle, 22.5 degrees, since the last layer starts at zero
    clips = MaskedViews([str(data)])
    batches = ElevationBatches(Recipe(task="elevation", batch=2, seed=0), lrm.spec, clips)
    images, elevations = batches(0)
    with open(output / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["loss"]) == pytest.approx(np.abs(elevations - 22.5).mean(), abs=1e-4) and float(rows[-1]["val_loss"]) > 0
    assert set(elevations) <= set(clips.angles[0][:, 1]) and images.shape == (2, 3, 16, 16)
    # measured is the last view, the only one of a dynamic orbit that is within the range that was asked for
    still = ElevationBatches(Recipe(task="elevation", batch=2, seed=0), lrm.spec, clips, still=True)
    assert all((still(number)[1] == clips.angles[0][-1, 1]).all() for number in range(6))
    assert len(set(np.concatenate([batches(number)[1] for number in range(6)]))) > 2
    found = lrm.elevation(lrm.encode(images))
    assert found.shape == (2,) and (found != 22.5).all()
    code, line = ending(train.run, elevation_flags(data, tmp_path / "other"), capsys)
    assert code == 2 and "--init is missing: the estimator reads the features of a trained network" in line


def test_dry_run(data, tmp_path, capsys):
    assert train.run(flags(data, tmp_path / "run", "steps=20", more=["--dry-run"])) == 0
    shown = capsys.readouterr().out
    for part in ("lrm_small, one view of 16^2 pixels to planes of 8^2 x 4", "2 squares of 8 pixels of each, 16 samples a ray; views"
                 " of 16 -> 32 pixels", "multi-scale gradients x 0.003 from 50% of the steps on", "2 objects, each seen 20.0 times"):
        assert part in shown, shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes, model, said", [
    (["val=[]"], [], "hold_out: found 3 without val, expected sets of other objects"),
    (["vgg=x"], [], "vgg: found x, expected nothing for task feedforward"),
    (["task=diffusion"], [], "task: found diffusion for lrm_small, expected one of feedforward, elevation"),
    ([], ["upright=false", "elevation_width=0"], "upright: found false of lrm_small, expected true"),
    ([], ["image_size=24", "encoder.image_size=24"], "image_size: found 24, expected a divisor of 32"),
    (["samples=9"], [], "samples: found 9, expected an even number"),
    (["stages=[4]"], [], "stages: found [4], expected sides of at least 8 pixels")])
def test_what_is_refused(changes, model, said, data, tmp_path, capsys):
    code, line = ending(train.run, flags(data, tmp_path / "run", *changes, model_changes=model), capsys)
    assert code == 2 and said in line, line


def test_weights_of_another_network(data, first, tmp_path, capsys):
    code, line = ending(train.run, flags(data, tmp_path / "run", model_changes=["decoder.width=4"],
                                         more=["--init", first / "averaged.safetensors"]), capsys)
    assert code == 2 and "averaged.safetensors: does not fit lrm_small: 3 misshapen: synthesizer.decoder.net." in line, line
