"""train.py on an autodecoder, both stages: files, resuming, sheets, and what is refused."""
import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.commands import ending
from support.small_autodecoder import flags, write_objects
from support.training import flags as view_flags

import train
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.safetensors_format import save_safetensors
from sgm.common.errors import InputError
from sgm.train.objects.masked_views import MaskedViews


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_objects(tmp_path_factory.mktemp("data") / "balls")
    np.save(folder / "names.npy", np.array(["red", "green", "blue"]))
    return folder


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """The folder of two steps of stage 1, without graphs; whatever its name says."""
    output = tmp_path_factory.mktemp("runs") / "random"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgm.ops.compiled", lambda function: function)
        assert train.run(flags("autodecoder", data, output, "steps=2", "schedule=constant", "sheet_every=2",
                               "sheet_clips=1")) == 0
    return output


def weights_of(folder, name="averaged"):
    store = open_checkpoint(folder / f"{name}.safetensors")
    return {key: np.array(store.read(key)) for key in store}


def rows_of(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_stage_1(first):
    assert {"averaged.safetensors", "best.safetensors", "state.safetensors", "val_00000002.png"} <= {
        path.name for path in first.iterdir()}
    weights = weights_of(first)
    assert weights["embeddings.embedding_table"].shape == (3, 8) and not any(key.startswith("denoiser") for key in weights)
    last = rows_of(first)[-1]
    assert float(last["val_loss"]) > 0 and 0 < float(last["val_psnr_fg"]) < 100 and 0 <= float(last["val_iou"]) <= 1


def test_resumed_run_is_the_same(data, first, tmp_path, uncompiled):
    """Bit for bit: a step, and a second one later, are two steps."""
    assert train.run(flags("autodecoder", data, tmp_path, "steps=1", "schedule=constant")) == 0
    assert train.run(["--resume", str(tmp_path), "--set", "steps=2"]) == 0
    ours, theirs = weights_of(tmp_path, "state"), weights_of(first, "state")
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)


def second_stage(first, output):
    """A step of stage 2, with its sheet; -> the folder."""
    assert train.run(flags("latent_diffusion", None, output, "steps=1", "sheet_every=1", "sheet_steps=1", "sheet_clips=1",
                           more=["--init", first / "averaged.safetensors"])) == 0
    return output


def test_stage_2(first, tmp_path, uncompiled):
    """The file holds both stages; the first stays as it is."""
    output = second_stage(first, tmp_path / "second")
    before, after = weights_of(first), weights_of(output)
    assert all((after[key] == before[key]).all() for key in before)
    noted = [open_checkpoint(folder / "averaged.safetensors").metadata for folder in (first, output)]
    assert noted[0]["hold_out"] == noted[1]["hold_out"] == "3" and noted[1]["held_objects"] == "3"
    assert len(noted[0]["names"]) == 16 and noted[0]["names"] == noted[1]["names"]
    assert after["latent_deviation"] > 0 and after["denoiser.network.zero_conv.weight"].any()
    assert (output / "val_00000001.png").exists() and float(rows_of(output)[-1]["val_loss"]) > 0


@pytest.mark.slow
def test_resumed_stage_2_keeps_its_normalization(first, tmp_path, uncompiled):
    """What a trained denoiser was given counts, not what its latents would give now."""
    output = second_stage(first, tmp_path / "second")
    arrays = weights_of(output, "state")
    state = open_checkpoint(output / "state.safetensors")
    save_safetensors(output / "state.safetensors", {**arrays, "latent_deviation": np.float32([7])}, state.metadata)
    assert train.run(["--resume", str(output), "--set", "steps=2"]) == 0
    assert weights_of(output)["latent_deviation"] == 7 and len(rows_of(output)) == 2


def test_own_cameras_that_are_learned(tmp_path, uncompiled):
    """Of each object's each view; hold_out is refused, as nobody would learn those of held-out views."""
    data, output = write_objects(tmp_path / "own", shared=False), tmp_path / "run"
    learned = dict(model_changes=["learned_cameras=18"])
    assert train.run(flags("autodecoder", data, output, "steps=1", "hold_out=0", **learned)) == 0
    moved = weights_of(output, "state")["cameras.rotation"]
    assert moved.shape == (18, 3) and 0 < (moved != 0).any(1).sum() <= 4        # two views of two objects


@pytest.mark.parametrize("task, changes, said", [
    ("autodecoder", {}, ["3 objects, latents of 8^3 x 8, volumes of 16^3", "loss       multi-scale gradients x 1, opacity x 10",
                         "3 objects, each seen 13.3 times"]),
    ("autodecoder", {"hold_out": 0}, ["sheets     none, as no views are held out"]),
    ("latent_diffusion", {}, ["latent_diffusion: 0.0", "latents 0.00 GB on the host"])])
def test_dry_run(task, changes, said, data, tmp_path, capsys):
    changes = [f"{name}={value}" for name, value in changes.items()]
    argv = flags(task, data, tmp_path / "run", "steps=20", "sheet_every=9", *changes, more=["--dry-run"])
    assert train.run(argv) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in said), shown
    assert not (tmp_path / "run").exists()


def packed(tmp_path, change):
    """A set of objects whose arrays `change` has changed; -> its folder."""
    folder = write_objects(tmp_path / "set")
    np.save(folder / "clips.npy", change(np.load(folder / "clips.npy")))
    return folder


@pytest.mark.parametrize("task, changes, model_changes, said", [
    ("autodecoder", ["views=5"], [], "views: found 5, expected at most 4"),
    ("autodecoder", ["crop=10"], [], "crop: found 10, expected a multiple of 4 up to 16"),
    ("autodecoder", ["crop=8", "vgg=a.safetensors"], [], "crop: found 8, expected a multiple of 16 up to 16"),
    ("autodecoder", [], ["objects=4"], "objects: found 4 of autodecoder_small, and 3 in the data, expected the same; give"
                                       " --model-set objects=3"),
    ("autodecoder", ["val=[x]"], [], "val: found x, expected nothing"),
    ("autodecoder", ["hold_out=1"], [], "hold_out: found 1, expected 0 (none), or 2 and more"),
    ("autodecoder", [], ["learned_cameras=6"], "hold_out: found 3, expected 0 with learned_cameras"),
    ("autodecoder", ["hold_out=0"], ["learned_cameras=7"], "learned_cameras: found 7, expected 0 or 6"),
    ("autodecoder", ["background=both"], [], "background: found both, expected white"),
    ("autodecoder", ["precision=fp16"], [], "precision: found 'fp16', expected fp32 for task autodecoder"),
    ("autodecoder", ["crop=16", "vgg=nowhere.safetensors"], [], "nowhere.safetensors"),
    ("autodecoder", [], ["volume.side=48"], "volume.side: found 48, expected one of 16, 32, 64, 128"),
    ("latent_diffusion", ["data=[x]"], [], "data: found x, expected nothing: the latents are those of the objects in --init"),
    ("latent_diffusion", ["mask_weight=1"], [], "mask_weight: found 1.0, expected 10.0 for task latent_diffusion, which does"),
    ("autodecoder", ["p_mean=-1.2"], [], "p_mean: found -1.2, expected 1.0 for task autodecoder, which does not use it"),
    ("latent_diffusion", ["edge_weight=1"], [], "edge_weight: found 1.0, expected nothing for task latent_diffusion"),
    ("latent_diffusion", [], [], "--init is missing: latents are those of a trained autodecoder")])
def test_bad_input_is_one_line(task, changes, model_changes, said, data, tmp_path, capsys):
    argv = flags(task, data, tmp_path / "run", "steps=1", *changes, model_changes=model_changes)
    code, line = ending(train.run, argv, capsys)
    assert code == 2 and said in line and not (tmp_path / "run").exists()


def test_sets_that_do_not_fit(data, tmp_path, capsys):
    """Views without opacity, a folder of views, and a recipe of another model."""
    opaque = packed(tmp_path, lambda clips: clips[..., :3].copy())
    assert "has no opacity, expected views with alpha" in ending(
        train.run, flags("autodecoder", opaque, tmp_path / "run"), capsys)[1]
    views = tmp_path / "views"
    views.mkdir()
    (views / "transforms.json").write_text(json.dumps({}))
    assert "views is no packed set" in ending(train.run, flags("autodecoder", views, tmp_path / "run"), capsys)[1]
    code, line = ending(train.run, view_flags("sv3d_tiny", "vae_tiny", data, tmp_path / "run", "hold_out=3"), capsys)
    assert "hold_out: found 3, expected nothing for task autoencoder, which does not use it" in line
    code, line = ending(train.run, view_flags("autodecoder_small", "vae_tiny", data, tmp_path / "run", model_changes=[]), capsys)
    assert "task: found autoencoder for autodecoder_small, expected one of autodecoder, latent_diffusion" in line
    code, line = ending(train.run, view_flags("sv3d_tiny", "autodecoder_small", data, tmp_path / "run", model_changes=[]), capsys)
    assert "task: found autodecoder for sv3d_tiny, expected one of diffusion, autoencoder, decoder" in line


@pytest.mark.parametrize("change, said", [
    ("embedding.length=4", "does not fit autodecoder_small: "), ("volume.depth=2", "keys missing")])
def test_weights_of_another_model(change, said, first, tmp_path, capsys, uncompiled):
    code, line = ending(train.run, flags("latent_diffusion", None, tmp_path / "run", "steps=1", model_changes=[change],
                                         more=["--init", first / "averaged.safetensors"]), capsys)
    assert code == 2 and said in line and "expected weights that train.py made of this very model" in line


@pytest.mark.parametrize("change, said", [
    ("volume.norm_groups=1", "volume.norm_groups: {} was trained with volume.norm_groups"),
    ("volume.head_width=4", "volume.head_width: {} was trained with volume.head_width")])
def test_weights_that_fit_but_were_trained_with_other_settings(change, said, first, tmp_path, capsys, uncompiled):
    weights = first / "averaged.safetensors"
    code, line = ending(train.run, flags("latent_diffusion", None, tmp_path / "run", "steps=1", model_changes=[change],
                                         more=["--init", weights]), capsys)
    assert code == 2 and said.format(weights) in line and "now " + change[-1] in line


def test_data_in_another_order(first, data, tmp_path):
    """Losses and views would be those of other objects."""
    views, model = MaskedViews([str(data)], 16), SimpleNamespace(spec=SimpleNamespace(objects=3))
    model.notes = open_checkpoint(first / "averaged.safetensors").metadata
    views.check_trained_on(model, "a")
    np.save(write_objects(tmp_path / "set") / "names.npy", np.array(["red", "blue", "green"]))
    with pytest.raises(InputError, match="a: found weights of other objects, expected those of the data"):
        MaskedViews([str(tmp_path / "set")], 16).check_trained_on(model, "a")
