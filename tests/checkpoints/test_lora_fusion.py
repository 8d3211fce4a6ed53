"""LoRA files: what is none; and one fused into weights by tools/convert.py is the same model as one added by --lora."""
import csv

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import sample
from support.converting import convert
from support.training import SV3D_P, drawn, write_model

import simple_video_sample
from sgm.checkpoints.lora_fusion import fuse
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.original_keys import UNET
from sgm.checkpoints.safetensors_format import Arrays, save_safetensors
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec
from sgm.diffusion.pipeline import load_model

# Layers of each kind that training adapts.
LAYERS = [f"{UNET}middle_block.1.{name}" for name in (
    "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_v", "time_stack.0.attn1.to_out.0",
    "time_stack.0.ff_in.net.0.proj", "transformer_blocks.0.ff.net.2")]
RANK, ALPHA = 2, 6


@pytest.mark.parametrize("change, expected", [
    (lambda a: a.pop(next(k for k in a if k.endswith("lora_B.weight"))), "found no pair of lora_A.weight and lora_B.weight"),
    (lambda a: a.update({"x.lora_A.weight": np.zeros((2, 3), np.float32), "x.lora_B.weight": np.zeros((3, 2), np.float32)}),
     "x: found no such layer"),
    (lambda a: a.update({"layer.lora_A.weight": np.zeros((2, 9), np.float32)}), "layer: found a change of (4, 9)"),
    (lambda a: a.update({"layer.lora_A.weight": np.zeros((1, 3), np.float32)}), "of ranks 1 and 2"),
    (lambda a: a.update({"layer.lora_A.weight": np.zeros(3, np.float32)}), "found shape (3,), expected a matrix"),
    (lambda a: a.clear(), "found no tensors")])
def test_a_lora_that_is_none(change, expected, tmp_path):
    arrays = {"layer.lora_A.weight": np.ones((2, 3), np.float32), "layer.lora_B.weight": np.ones((4, 2), np.float32)}
    store, path = Arrays("base", {"layer.weight": np.zeros((4, 3), np.float32)}), tmp_path / "lora.safetensors"
    save_safetensors(path, arrays, {"lora_alpha": "4"})
    np.testing.assert_array_equal(fuse(store, path).read("layer.weight"), np.full((4, 3), 2 * 4 / 2))
    save_safetensors(path, arrays)
    with pytest.raises(CheckpointError, match="found nothing as lora_alpha"):
        fuse(store, path)
    change(arrays)
    save_safetensors(path, arrays, {"lora_alpha": "4"})
    with pytest.raises(CheckpointError) as error:
        fuse(store, path)
    assert expected in str(error.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(Folder with p.yaml, p.safetensors and lora.safetensors, {layer: float64 change of its weight})."""
    folder = tmp_path_factory.mktemp("model")
    weights = drawn(load_spec(write_model(folder / "p.yaml", SV3D_P)))
    save_safetensors(folder / "p.safetensors", weights)
    rng, arrays, changes = np.random.RandomState(0), {}, {}
    for layer in LAYERS:
        out, into = weights[layer + ".weight"].shape
        down, up = rng.randn(RANK, into).astype(np.float32), rng.randn(out, RANK).astype(np.float32)
        arrays.update({layer + ".lora_A.weight": down, layer + ".lora_B.weight": up})
        changes[layer + ".weight"] = ALPHA / RANK * up.astype(np.float64) @ down.astype(np.float64)
    save_safetensors(folder / "lora.safetensors", arrays, {"lora_alpha": str(ALPHA), "model": "p"})
    return folder, changes


@pytest.mark.parametrize("kind, dtype", [("safetensors", None), ("safetensors", "bf16"), ("mindspore", "fp16")])
def test_fused_while_converting(kind, dtype, model, tmp_path, capsys):
    """The layers of the LoRA are changed and no others; the report says which; with --dtype they are rounded once."""
    folder, changes = model
    target, report = tmp_path / f"fused{'.ckpt' if kind == 'mindspore' else '.safetensors'}", tmp_path / "report.csv"
    assert convert(folder / "p.safetensors", target, "--to", kind, "--lora", folder / "lora.safetensors", "--verify",
                   "--report", report, *(["--dtype", dtype] if dtype else []), config=folder / "p.yaml") == 0
    assert f"lora.safetensors fused into {len(LAYERS)} of them" in capsys.readouterr().out
    base, fused = load_file(folder / "p.safetensors"), open_checkpoint(target)
    assert set(fused) == set(base)
    rounding = {None: 1e-7, "fp16": 2 ** -11, "bf16": 2 ** -8}[dtype]
    for key, weight in base.items():
        wanted = weight.astype(np.float64) + changes.get(key, 0)
        np.testing.assert_allclose(fused.read(key), wanted, rtol=rounding, atol=1e-7)
        assert (np.abs(wanted - weight).max() > 0.5) == (key in changes)
    with open(report, newline="", encoding="utf-8") as file:
        done = {row["target"]: row for row in csv.DictReader(file)}
    assert {key for key, row in done.items() if "LoRA of lora.safetensors fused" in row["done"]} == set(changes)
    row = done[LAYERS[0] + ".weight"]
    assert row["source"] == " + ".join([LAYERS[0] + end for end in (".weight", ".lora_A.weight", ".lora_B.weight")])


def test_fused_into_a_diffusers_folder_and_from_one(model, tmp_path):
    """The same weights by either way."""
    folder, _ = model
    lora, config = ("--lora", folder / "lora.safetensors"), folder / "p.yaml"
    assert convert(folder / "p.safetensors", tmp_path / "a.safetensors", "--to", "original", *lora, config=config) == 0
    assert convert(folder / "p.safetensors", tmp_path / "plain", "--to", "diffusers", config=config) == 0
    assert convert(tmp_path / "plain", tmp_path / "b.safetensors", "--to", "original", *lora, config=config) == 0
    assert convert(folder / "p.safetensors", tmp_path / "fused", "--to", "diffusers", *lora, config=config) == 0
    assert convert(tmp_path / "fused", tmp_path / "c.safetensors", "--to", "original", config=config) == 0
    first, *others = (load_file(tmp_path / f"{name}.safetensors") for name in "abc")
    for other in others:
        assert set(other) == set(first) and all(np.array_equal(other[key], first[key]) for key in first)


def test_a_lora_that_does_not_fit_writes_nothing(model, tmp_path, capsys):
    folder, _ = model
    save_safetensors(tmp_path / "other.safetensors", {"x.lora_A.weight": np.zeros((2, 3), np.float32),
                                                      "x.lora_B.weight": np.zeros((3, 2), np.float32)}, {"lora_alpha": "2"})
    for lora, expected in ((tmp_path / "other.safetensors", "x: found no such layer in"),
                           (folder / "p.safetensors", "as lora_alpha in its metadata, expected a number"),
                           (tmp_path / "gone.safetensors", "gone.safetensors")):
        assert convert(folder / "p.safetensors", tmp_path / "a.safetensors", "--to", "original", "--lora", lora,
                       config=folder / "p.yaml") == 2
        said = capsys.readouterr().err.strip()
        assert expected in said and "\n" not in said and not (tmp_path / "a.safetensors").exists()
    lora = folder / "lora.safetensors"
    assert convert(folder / "p.safetensors", lora, "--to", "original", "--lora", lora, config=folder / "p.yaml") == 2
    assert "found the path of what is read" in capsys.readouterr().err


def test_fused_loads_as_with_lora(model, tmp_path):
    """Every weight that the UNet samples with, to the last bit."""
    folder, changes = model
    fused, base = tmp_path / "fused.safetensors", folder / "p.safetensors"
    assert convert(base, fused, "--to", "safetensors", "--lora", folder / "lora.safetensors", config=folder / "p.yaml") == 0
    loaded = []
    for ckpt, lora in ((base, folder / "lora.safetensors"), (fused, None), (base, None)):
        engine = load_model(folder / "p.yaml", ckpt, lora=lora)
        with engine.weights_loaded("model"):
            loaded.append({name: value.asnumpy().copy() for name, value in engine.model.parameters_dict().items()})
    differing = {name for name in loaded[0] if not np.array_equal(loaded[0][name], loaded[2][name])}
    assert differing == set(changes)
    assert all(np.array_equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


@pytest.mark.slow
def test_fused_samples_as_with_lora(model, tmp_path, photo):
    """The views of the fused file are those of the file with --lora, to the last bit; and not those without."""
    folder, _ = model
    fused, base = tmp_path / "fused.safetensors", folder / "p.safetensors"
    assert convert(base, fused, "--to", "safetensors", "--lora", folder / "lora.safetensors", config=folder / "p.yaml") == 0
    views = []
    for name, ckpt, more in (("with", base, ["--lora", folder / "lora.safetensors"]), ("fused", fused, []),
                             ("plain", base, [])):
        argv = sample(photo, tmp_path / name, "--config", folder / "p.yaml", "--ckpt", ckpt, "--steps", "1", *more)
        assert simple_video_sample.run([str(word) for word in argv]) == 0
        views.append([path.read_bytes() for path in sorted((tmp_path / name / "cup_23").glob("00?.png"))])
    assert views[0] == views[1] and len(views[0]) == 3
    assert views[0] != views[2]
