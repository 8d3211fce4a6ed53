"""Diffusers folders as they lie about: with averages, old names, wrappers, mixed types, unfinished downloads."""
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.converting import SVD, convert, write_file
from support.goldens import build_checkpoint

from sgm.checkpoints.opening import open_weights
from sgm.checkpoints.original_keys import used_shapes
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec

SPEC = load_spec(SVD)
WHOLE = build_checkpoint("svd")


def rewritten(path, rename=lambda key: key, change=lambda key, value: value):
    write_file(path, {rename(key): change(key, value) for key, value in load_file(path).items()})


def same(folder):
    store, _ = open_weights(folder, SPEC)
    return all(np.array_equal(store.read(key), WHOLE[key]) for key in used_shapes(SPEC))


def test_the_average_of_a_unet(folder, tmp_path, caplog, capsys):
    """SVD_Xtend and accelerate write unet and unet_ema; convert.py and the library take either."""
    shutil.copytree(folder / "unet", folder / "unet_ema")
    rewritten(folder / "unet_ema/diffusion_pytorch_model.safetensors", change=lambda key, value: value + 1)
    assert same(folder) and "uses unet; ema takes the average in unet_ema" in caplog.text
    assert convert(folder, tmp_path / "a.safetensors", "--to", "safetensors", "--ema") == 0
    found = load_file(tmp_path / "a.safetensors")
    for key in used_shapes(SPEC):
        assert np.array_equal(found[key], WHOLE[key] + key.startswith("model.")), key
    shutil.rmtree(folder / "unet_ema")
    assert convert(folder, tmp_path / "a.safetensors", "--to", "safetensors", "--ema") == 2
    assert "found no unet_ema in it, expected the moving average of the UNet for --ema" in capsys.readouterr().err


def test_the_weights_apart_from_their_average(folder, caplog):
    """As in Stable Diffusion's first folders: the file without a name is the average, and is used, as diffusers does."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    shutil.copy(path, path.with_suffix(".non_ema.safetensors").with_name("diffusion_pytorch_model.non_ema.safetensors"))
    assert same(folder) and "the moving average of diffusion_pytorch_model.non_ema.safetensors" in caplog.text
    caplog.clear()
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert same(folder) and "uses diffusion_pytorch_model.fp16.safetensors of diffusion_pytorch" in caplog.text


@pytest.mark.parametrize("part, rename", [
    ("vae", lambda key: key.replace("to_q.", "query.").replace("to_k.", "key.").replace("to_v.", "value.").replace(
        "attentions.0.to_out.0.", "attentions.0.proj_attn.")),
    ("vae", lambda key: "module." + key), ("vae", lambda key: "_orig_mod.vae." + key),
    ("vae", lambda key: key.replace("norm1.weight", "norm1.gamma").replace("norm1.bias", "norm1.beta"))])
def test_other_names_of_a_part(part, rename, folder, caplog):
    """Attention before diffusers 0.15 (case 16), wrappers, MindSpore's norms."""
    path = folder / part / "diffusion_pytorch_model.safetensors"
    before = set(load_file(path))
    rewritten(path, rename)
    assert set(load_file(path)) != before and same(folder) and not caplog.records


def test_types_that_differ_within_a_joint_projection(folder):
    """Their product is float32, exact for half precision; nothing else changes its type."""
    path = folder / "image_encoder/model.safetensors"
    rewritten(path, change=lambda key, value: value.astype(np.float16) if "q_proj" in key else value)
    key = "conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.0.attn.in_proj_weight"
    store, _ = open_weights(folder, SPEC)
    third = len(WHOLE[key]) // 3
    assert store.dtype(key) == "F32" and np.array_equal(store.read(key)[third:], WHOLE[key][third:])
    assert np.array_equal(store.read(key)[:third], WHOLE[key][:third].astype(np.float16).astype(np.float32))


def test_unfinished_downloads(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    shard = path.with_name("diffusion_pytorch_model-00001-of-00002.safetensors")
    path.rename(shard)
    with pytest.raises(CheckpointError, match="found diffusion_pytorch_model-00001-of-00002.safetensors without an index"):
        open_weights(folder, SPEC)
    shard.unlink()
    path.symlink_to("../blobs/deadbeef")
    with pytest.raises(CheckpointError, match="unet/diffusion_pytorch_model.safetensors: cannot be read"):
        open_weights(folder, SPEC)
