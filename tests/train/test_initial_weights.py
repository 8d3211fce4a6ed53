"""What a run starts from: weights in any form, SVD's for SV3D; and that what it saves samples as it is."""
from dataclasses import replace

import numpy as np
import pytest
from support.training import SV3D_P, SV3D_U, SVD, drawn, flags, write_model, write_toys

import simple_video_sample
import train
from sgm.checkpoints.diffusers.writer import to_parts, write_folder
from sgm.checkpoints.identify import VECTOR_KEY
from sgm.checkpoints.loading import check_weights
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import write_ckpt
from sgm.checkpoints.safetensors_format import Arrays, save_safetensors
from sgm.common.errors import InputError
from sgm.config.model_files import load_spec
from sgm.diffusion.engine import Engine
from sgm.train.initial_weights import start, starting_weights
from sgm.train.run.log import read_metrics


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: (YAML file, spec, weights)} of small models with the same networks; svd with its decoder over time."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    for name, embedders in (("svd", SVD), ("u", SV3D_U), ("p", SV3D_P)):
        path = write_model(folder / f"{name}.yaml", embedders)
        spec = load_spec(path)
        if name == "svd":
            spec = replace(spec, vae=replace(spec.vae, decoder="temporal"))
        arrays = drawn(spec)
        save_safetensors(folder / f"{name}.safetensors", arrays)
        found[name] = path, spec, arrays
    return folder, found


def check(store, spec, models, origin):
    """That these are the weights of `origin`, the columns of the vector condition by their scalars."""
    check_weights(Engine(spec), store)
    _, source, arrays = models[origin]
    key = "model.diffusion_model.out.2.weight"
    np.testing.assert_array_equal(store.read(key), arrays[key])
    at, begins = 0, dict(zip(source.vector_widths, np.cumsum([0, *source.vector_widths.values()])))
    for name, width in spec.vector_widths.items():
        found = store.read(VECTOR_KEY)[:, at:at + width]
        kept = name in begins
        np.testing.assert_array_equal(found, arrays[VECTOR_KEY][:, begins[name]:begins[name] + width] if kept else 0)
        at += width
    assert at == store.shape(VECTOR_KEY)[1] and spec.vae.decoder == source.vae.decoder


def test_weights_of_any_form(models, tmp_path):
    folder, models = models
    write_ckpt(tmp_path / "svd.ckpt", Arrays("svd", models["svd"][2]))
    write_folder(tmp_path / "svd", to_parts(Arrays("svd", models["svd"][2]), models["svd"][1]), models["svd"][1])
    for path, target, origin in (
            (folder / "u.safetensors", "u", "u"), (folder / "svd.safetensors", "svd", "svd"),
            (folder / "svd.safetensors", "u", "svd"), (folder / "svd.safetensors", "p", "svd"),
            (folder / "u.safetensors", "p", "u"), (tmp_path / "svd.ckpt", "p", "svd"), (tmp_path / "svd", "p", "svd"),
            (tmp_path / "svd", "svd", "svd")):
        store, spec, done = starting_weights(path, models[target][1])
        check(store, spec, models, origin)
        assert bool(done) == (target != origin)


def test_weights_of_another_model(models):
    folder, models = models
    for path, target in (("p", "u"), ("u", "svd"), ("p", "svd")):
        with pytest.raises(InputError, match=f"{path}.safetensors: .*expected"):
            starting_weights(folder / f"{path}.safetensors", models[target][1])
    wide = replace(models["u"][1], unet=replace(models["u"][1].unet, model_channels=64))
    with pytest.raises(InputError, match="svd.safetensors: .*channels"):
        starting_weights(folder / "svd.safetensors", wide)


def test_parts_that_a_file_lacks_are_drawn(models, tmp_path):
    _, models = models
    _, spec, arrays = models["p"]
    save_safetensors(tmp_path / "vae.safetensors", {k: v for k, v in arrays.items() if not k.startswith("model.")})
    engine, origin = start(spec, tmp_path / "vae.safetensors", seed=3)
    assert origin == f"{tmp_path / 'vae.safetensors'}; random: model"
    key = "first_stage_model.decoder.conv_in.weight"
    np.testing.assert_array_equal(engine.parameters_dict()[key].asnumpy(), arrays[key])
    random = start(spec, None, seed=3)[0].parameters_dict()
    key = "model.diffusion_model.input_blocks.0.0.weight"
    np.testing.assert_array_equal(engine.parameters_dict()[key].asnumpy(), random[key].asnumpy())
    save_safetensors(tmp_path / "other.safetensors", {"a": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="a: found none of the names of SVD or SV3D"):
        start(spec, tmp_path / "other.safetensors", seed=3)


def test_from_svd_to_views(models, tmp_path, photo, uncompiled):
    """Fine-tuned from SVD, the file samples with SV3D's own configuration: its decoder over time is seen from its keys."""
    folder, models = models
    data, run = write_toys(tmp_path / "toys"), tmp_path / "run"
    command = flags(models["u"][0], "sv3d_u", data, run, "steps=1", "background=white", "accumulate=1", "recompute=false",
                    f"val=[{data}]", "sheet_clips=1", "sheet_steps=1", model_changes=())
    assert train.run([*command, "--init", str(folder / "svd.safetensors")]) == 0
    row, = read_metrics(run / "metrics.csv")
    assert float(row["val_loss"]) > 0 and row["train_val_loss"] == row["val_loss"]          # the same clips, measured alike
    keys = set(open_checkpoint(run / "averaged.safetensors"))
    assert "first_stage_model.decoder.mid.block_1.time_stack.in_layers.0.weight" in keys
    out = tmp_path / "out"
    assert simple_video_sample.run(["--image", str(photo), "--output", str(out), "--config", str(models["u"][0]), "--ckpt",
                                    str(run / "averaged.safetensors"), "--format", "png", "--steps", "1"]) == 0
    assert len(list(out.glob("*/00?.png"))) == 3


@pytest.mark.slow
def test_a_lora_for_sampling(models, tmp_path, photo, capsys):
    """Made on SV3D_p, added to it while it loads; its state goes on with the weights it belongs to, and no others."""
    folder, models = models
    data, run, base = write_toys(tmp_path / "toys"), tmp_path / "run", folder / "p.safetensors"

    def command(steps, *more):
        return flags(models["p"][0], "sv3d_lora", data, run, f"steps={steps}", "accumulate=1", "recompute=false",
                     "lora_rank=2", "lr=0.1", "average_decay=0", model_changes=(), more=more)
    assert train.run(command(1, "--init", base)) == 0
    views = []
    for name, more in (("plain", []), ("lora", ["--lora", run / "lora.safetensors"])):
        argv = ["--image", photo, "--output", tmp_path / name, "--config", models["p"][0], "--ckpt", base, "--format", "png",
                "--steps", "1", *more]
        assert simple_video_sample.run([str(word) for word in argv]) == 0
        views.append((tmp_path / name / "cup_23" / "000.png").read_bytes())
        assert ("lora.safetensors" in (tmp_path / name / "cup_23" / "run.json").read_text()) == (name == "lora")
    assert views[0] != views[1]
    assert train.run(command(2, "--resume")) == 0
    capsys.readouterr()
    assert train.run(command(3, "--resume", "--init", folder / "u.safetensors")) == 2
    assert "is not there or of other content than" in capsys.readouterr().err
