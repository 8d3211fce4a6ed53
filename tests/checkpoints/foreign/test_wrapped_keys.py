"""Weights as other programs save them: the plain weights are found, the average on demand, or it is said what they are."""

import numpy as np
import pytest
from support.converting import SV3D_P, convert, write_file
from support.goldens import build_checkpoint

from sgm.checkpoints.foreign.wrapped_keys import AVERAGE, unwrapped
from sgm.checkpoints.identify import check_fit
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.mindspore_format import write_ckpt
from sgm.checkpoints.opening import open_weights
from sgm.checkpoints.original_keys import UNET, used_shapes
from sgm.checkpoints.safetensors_format import Arrays
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec

SPEC = load_spec(SV3D_P)
PLAIN = {key: value for key, value in build_checkpoint("sv3d_p").items() if key in used_shapes(SPEC)}
OUT = UNET + "out.2.bias"
AVERAGES = {key: value + 1 for key, value in PLAIN.items() if key.startswith(UNET)}


def store_of(arrays, **metadata):
    return Arrays("x.safetensors", arrays, metadata)


def opened(arrays, ema=False, spec=SPEC):
    """The TensorStore that a model of SPEC is loaded from; it fits."""
    store, found = open_weights(unwrapped(store_of(arrays), spec, ema), spec)
    check_fit(store, used_shapes(found))
    return store


def same(store, arrays):
    return all(np.array_equal(store.read(key), value) for key, value in arrays.items())


def wrapped(prefix, inner=""):
    """Every key with a prefix; those of the UNet with `inner` in front of the layer."""
    return {prefix + key.replace(UNET, UNET + inner): value for key, value in PLAIN.items()}


def litema(arrays):
    """As the original's LitEma saves them: names of buffers have no dots."""
    dotless = {"model_ema." + key.removeprefix("model.").replace(".", ""): value for key, value in arrays.items()}
    return {**dotless, "model_ema.decay": np.array(0.9999), "model_ema.num_updates": np.array(1000)}


@pytest.mark.parametrize("prefix, inner", [
    ("module.", ""), ("state_dict.", ""), ("model.", ""), ("", "_orig_mod."), ("_orig_mod.module.", ""), ("net.", "module."),
    ("_forward_module.", "_fsdp_wrapped_module."), ("network.", ""), ("state_dict.module.", "_orig_mod.")])
def test_wrappers(prefix, inner, caplog):
    assert same(opened(wrapped(prefix, inner)), PLAIN)
    assert not caplog.records


def test_published_names_are_left_alone():
    """Not only the same tensors, but the same store: conversion keeps its bytes and its order."""
    store = store_of(dict(reversed(PLAIN.items())))
    assert unwrapped(store) is store
    out_of_order = store_of({OUT: PLAIN[OUT], "x": PLAIN[OUT], **PLAIN})
    assert unwrapped(out_of_order) is out_of_order


def test_the_unet_alone_under_its_own_names():
    alone = {key.removeprefix(UNET): value for key, value in PLAIN.items() if key.startswith(UNET)}
    for prefix in ("", "unet.", "diffusion_model.", "module.", "model.diffusion_model."):
        store = unwrapped(store_of({prefix + key: value for key, value in alone.items()}))
        assert len(store) == len(alone) and same(store, {UNET + key: value for key, value in alone.items()})


@pytest.mark.parametrize("averages, name", [
    (litema(AVERAGES), "model_ema."),
    (litema({key.replace(UNET, UNET + "_orig_mod."): value for key, value in AVERAGES.items()}), "model_ema."),
    ({"model_ema." + key.removeprefix("model."): value for key, value in AVERAGES.items()}, "model_ema."),
    ({"ema." + key: value for key, value in AVERAGES.items()}, "ema."),             # mindone's
    ({"ema_model.module." + key: value for key, value in AVERAGES.items()}, "ema_model."),
    ({"state_dict." + key: value for key, value in litema(AVERAGES).items()}, "model_ema."),
    ({"average/" + key: value for key, value in AVERAGES.items()}, "average/")])    # of our own state.safetensors
def test_averages(averages, name, caplog):
    """The weights unless the average is asked for, and a line on which."""
    assert same(opened({**PLAIN, **averages}), PLAIN)
    line, = caplog.messages
    assert f"uses the weights, not a moving average (EMA) of {len(AVERAGES)} tensors under {name}; ema takes the" in line
    caplog.clear()
    store = opened({**PLAIN, **averages}, ema=True)
    assert same(store, {**PLAIN, **AVERAGES}) and store.metadata[AVERAGE] == "taken"
    assert f"uses a moving average (EMA) of {len(AVERAGES)} tensors under {name}" in caplog.text


def test_an_average_of_some_layers_and_one_alone(caplog):
    """Frozen layers have none; where nothing but the average was saved, it is the weights."""
    some = {key: value for key, value in AVERAGES.items() if "time_stack" in key}
    assert same(opened({**PLAIN, **litema(some)}, ema=True), {**PLAIN, **some})
    rest = {key: value for key, value in PLAIN.items() if not key.startswith(UNET)}
    assert same(opened({**rest, **litema(AVERAGES)}), {**rest, **AVERAGES})
    assert "the weights themselves are not in it" in caplog.text


def test_dots_are_found_for_a_model_of_the_published_size():
    """No two names of it become one without their dots, and an unknown model's are found too."""
    from sgm.checkpoints.foreign.wrapped_keys import _without_dots
    for name in ("svd", "sv3d_u", "sv3d_tiny"):
        keys = [key for key in used_shapes(load_spec(name)) if key.startswith(UNET)]
        found = list(_without_dots(load_spec(name), {}).values())
        assert all(found.count(key) == 2 for key in keys[::9]) and set(keys) <= set(found)
    assert set(keys) <= set(_without_dots(None, {}).values())
    assert _without_dots(SPEC, {UNET: {"": {UNET + "new.3.weight": "x"}}})["diffusion_modelnew3weight"] == UNET + "new.3.weight"


def test_averages_of_what_is_unknown():
    """They do not matter where the weights are used, and are left over where the average is."""
    both = {**PLAIN, **litema(AVERAGES), "model_ema.adapterweight": PLAIN[OUT], "model_ema.other.weight": PLAIN[OUT]}
    assert same(opened(both), PLAIN)
    with pytest.raises(CheckpointError, match="2 left over: model_ema.adapterweight, model_ema.other.weight; what is left"):
        opened(both, ema=True)


def test_no_average_is_said():
    with pytest.raises(CheckpointError, match="x.safetensors: found no moving average .*; leave out ema"):
        unwrapped(store_of(PLAIN), ema=True)


def test_what_only_training_needs(caplog):
    """Optimizers' and bookkeeping keys, losses, text towers; noise levels with a line."""
    one = np.float32(0)
    more = {"epoch": np.int64(3), "global_step": np.int64(9), "initted": one, "loss.last_overflow_iterator_step": one,
            "accumulate_step": one, "learning_rate": one, "scale_sense": one, "beta1_power": one,
            "adam_m." + OUT: PLAIN[OUT], "adam_v.module." + OUT: PLAIN[OUT], "moment1." + OUT: PLAIN[OUT], "moments." + OUT: one,
            "accum_grad." + OUT: one, "swap." + OUT: PLAIN[OUT], "m/" + OUT: PLAIN[OUT], "v/" + OUT: PLAIN[OUT],
            "optimizer_states.0.state.0.exp_avg": one, "lr_schedulers.0.last_epoch": one, "betas": one,
            "first_stage_model.loss.logvar": one, "first_stage_model.loss.perceptual_loss.lin0.model.1.weight": one,
            "conditioner.embedders.0.open_clip.model.attn_mask": one,
            "conditioner.embedders.0.open_clip.model.transformer.resblocks.0.ln_1.weight": one}
    store = opened({**PLAIN, **more})
    assert set(store) == set(PLAIN) and same(store, PLAIN) and not caplog.records
    assert "scale_factor" in unwrapped(store_of({**PLAIN, "scale_factor": one}))      # changes what latents mean
    assert set(opened({**PLAIN, "denoiser.sigmas": one})) == set(PLAIN)
    assert "denoiser.sigmas passed over: noise levels" in caplog.text


def test_names_of_mindspores_layers(tmp_path):
    """Case 15: norms with gamma and beta, beside the optimizer's moments, in a .ckpt."""
    def named(key):
        norm = any(word in key.split(".")[-2] for word in ("norm", "ln_")) or key.split(".")[-3:-1] in (
            ["in_layers", "0"], ["out_layers", "0"], ["out", "0"])
        return key.replace(".weight", ".gamma").replace(".bias", ".beta") if norm else key
    names = {named(key): value for key, value in PLAIN.items()}
    assert sum(key.endswith(".gamma") for key in names) > 100
    moments = {"adam_m." + key: value for key, value in list(names.items())[:20]}
    write_ckpt(tmp_path / "gb.ckpt", store_of({**names, **moments}))
    store = unwrapped(open_checkpoint(tmp_path / "gb.ckpt"))
    assert set(store) == set(PLAIN) and same(store, PLAIN) and store.format == "ckpt"


@pytest.mark.parametrize("arrays, expected", [
    ({**PLAIN, "module." + OUT: PLAIN[OUT]}, f"found {OUT} and module.{OUT}, which are both {OUT}, expected it once"),
    ({f"{name}.{key}": value for name in ("student", "teacher") for key, value in PLAIN.items()},
     r"found model.diffusion_model.... 2 times, under student. and teacher., expected it once"),
    ({**PLAIN, "model.diffusion_model.out.2.gamma": PLAIN[OUT]}, "which are both model.diffusion_model.out.2.weight")])
def test_two_tensors_of_one_meaning(arrays, expected):
    with pytest.raises(CheckpointError, match=expected):
        unwrapped(store_of(arrays))


def test_without_certain_meaning_keys_are_left_over():
    """Not dropped in silence: and the remedy is not that for missing keys."""
    with pytest.raises(CheckpointError, match="1 left over: teacher.model.diffusion_model.out.2.bias; what is left over has no"):
        opened({**PLAIN, "teacher." + OUT: PLAIN[OUT]})
    with pytest.raises(CheckpointError, match="1 left over: adapter.weight; what is left over has no place in this model"):
        opened({**PLAIN, "adapter.weight": PLAIN[OUT]})


def test_the_flag_of_the_converter_and_of_the_library(tmp_path, capsys, caplog, monkeypatch):
    """--ema in convert.py and load_model alike."""
    from sgm.diffusion import pipeline
    monkeypatch.setattr(pipeline, "Engine", lambda spec, weights, dtype, kept: weights)
    monkeypatch.setattr(pipeline, "check_weights", lambda engine, weights: None)
    source = write_file(tmp_path / "both.safetensors", {**PLAIN, **litema(AVERAGES)})
    for flags, wanted in (((), PLAIN), (("--ema",), {**PLAIN, **AVERAGES})):
        assert convert(source, tmp_path / "a.safetensors", "--to", "safetensors", *flags, config=SV3D_P) == 0
        assert same(open_checkpoint(tmp_path / "a.safetensors"), wanted)
    assert caplog.text.count("uses the weights, not") == 1
    assert pipeline.load_model(SV3D_P, source, ema=True).read(OUT)[0] == AVERAGES[OUT][0]
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt", "--to", "mindspore", "--ema", config=SV3D_P) == 2
    assert "leave out --ema" in capsys.readouterr().err


def test_a_base_of_another_program(tmp_path):
    """What completes a file may come in a wrapper as well."""
    alone = {key: value for key, value in PLAIN.items() if key.startswith(UNET)}
    part, base = write_file(tmp_path / "part.safetensors", alone), write_file(tmp_path / "base.safetensors", wrapped("module."))
    assert convert(part, tmp_path / "a.safetensors", "--to", "safetensors", "--base", base, config=SV3D_P) == 0
    assert same(open_checkpoint(tmp_path / "a.safetensors"), PLAIN)


@pytest.mark.parametrize("prefix", ["EMA.", "ema1.", "averaged_model.module."])
def test_other_names_of_averages(prefix):
    arrays = {**PLAIN, **{prefix + key: value for key, value in AVERAGES.items()}}
    assert same(opened(arrays), PLAIN) and same(opened(arrays, ema=True), AVERAGES)


def test_average_of_numbers(caplog):
    """As torch_ema saves it: which is which is in the program that made it."""
    arrays = {**PLAIN, **{f"ema.shadow_params.{i}": value for i, value in enumerate(AVERAGES.values())}}
    assert same(opened(arrays), PLAIN)
    assert "ema.shadow_params.0: found a moving average (EMA) of numbers without names" in caplog.text
    with pytest.raises(CheckpointError, match="shadow_params.0: found a moving average.*expected names; copy it"):
        opened(arrays, ema=True)


def test_optimizers_that_name_the_layer_first(caplog):
    arrays = {**PLAIN, **{f"{key}.{name}": value for key, value in AVERAGES.items() for name in ("exp_avg", "exp_avg_sq", "step")}}
    assert same(opened(arrays), PLAIN)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_another_model_is_said_before_its_autoencoder(caplog):
    with pytest.raises(CheckpointError, match="found 768 columns"):
        open_weights(unwrapped(store_of(build_checkpoint("svd")), SPEC), SPEC)
    assert not caplog.records


def test_a_state_of_train_py_is_named_as_such(caplog):
    """Of a run that is resumed nothing is passed over."""
    arrays = {**PLAIN, **{"average/" + key: value for key, value in AVERAGES.items()}, "m/" + OUT: PLAIN[OUT]}
    caplog.set_level("INFO")
    assert same(unwrapped(store_of(arrays, run="{}"), SPEC), PLAIN)
    line, = caplog.messages
    assert "a state of train.py, uses the weights of its last step" in line and "passed over" not in line
