"""What a file is that is no whole model is said by name, with what would help."""
import numpy as np
import pytest
from support.converting import SV3D_P, SVD, convert, write_file

from sgm.checkpoints.foreign.file_kinds import lora_kind
from sgm.checkpoints.foreign.wrapped_keys import unwrapped
from sgm.checkpoints.lora_fusion import fuse
from sgm.checkpoints.opening import open_file
from sgm.checkpoints.safetensors_format import Arrays
from sgm.checkpoints.store import CheckpointError

W = np.zeros((4, 4), np.float32)
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LORAS = {
    "a LoRA of PEFT": f"unet.{ATTENTION}.to_q.lora_A.weight",
    "a LoRA of kohya's scripts": "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "a LoRA of an older diffusers": f"unet.{ATTENTION}.processor.to_q_lora.down.weight",
    "a LoRA of another program": "model.diffusion_model.out.2.lora_down.weight",     # mindone's
    "a LoRA of train.py": "model.diffusion_model.out.2.lora_A.weight"}


def store_of(*keys):
    return Arrays("x.safetensors", dict.fromkeys(keys, W))


@pytest.mark.parametrize("kind", LORAS)
def test_loras_are_named(kind):
    """In place of a model, and where one of train.py is wanted."""
    store = store_of(LORAS[kind], "x.alpha")
    with pytest.raises(CheckpointError) as refusal:
        unwrapped(store)
    remedy = {"a LoRA of train.py": "this file with lora", "a LoRA of another program": "with that program"}.get(kind, "fuse_lora")
    assert f"found {kind}, expected a whole model" in str(refusal.value) and remedy in str(refusal.value)


@pytest.mark.parametrize("key", [
    "base_model.model.unet.conv.lora_B.default.weight", "lora_unet_x.hada_w1_a", "lycoris_unet_x.lokr_w1",
    "lora_te_text_model_encoder.lora_up.weight", "text_encoder.text_model.to_k_lora.up.weight", "transformer.x.lora_A.weight"])
def test_other_spellings_of_loras(key):
    assert lora_kind([key]) not in (None, "a LoRA of train.py")


def test_as_the_flag_lora(tmp_path):
    for kind, key in LORAS.items():
        if "train.py" not in kind:
            path = write_file(tmp_path / "lora.safetensors", {key: W})
            with pytest.raises(CheckpointError, match=f"found {kind}, expected one of train.py; fuse it"):
                fuse(store_of(), path)


def test_layers_of_a_lora_in_a_model():
    model = [f"model.diffusion_model.input_blocks.{k}.0.weight" for k in range(9)]
    for key in (model[0].replace("weight", "base_layer.weight"), model[0].replace("weight", "lora_A.weight")):
        with pytest.raises(CheckpointError, match=r"not merged, expected plain layers; merge it with PEFT"):
            unwrapped(store_of(*model, key))


@pytest.mark.parametrize("key, what", [
    ("control_model.input_blocks.0.0.weight", "a ControlNet"), ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
    ("input_hint_block.0.weight", "a ControlNet"), ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter"),
    ("down_blocks.0.motion_modules.0.proj.weight", "a motion module"), ("emb_params", "an embedding of textual inversion"),
    ("cond_stage_model.transformer.text_model.x", "Stable Diffusion 1 or 2"), ("cc_projection.weight", "Zero-1-to-3"),
    ("conditioner.embedders.0.transformer.text_model.x", "Stable Diffusion XL"), ("visual.conv1.weight", "an image encoder"),
    ("model.diffusion_model.double_blocks.0.x", "a diffusion transformer"), ("text_model.encoder.x", "a text encoder"),
    ("decoder.mid.block_1.norm1.weight", "an autoencoder alone")])
def test_other_networks_are_named(key, what):
    others = ["model.diffusion_model.input_blocks.0.0.weight"] if key.startswith(("cond", "cc_", "model.")) else []
    with pytest.raises(CheckpointError) as refusal:
        unwrapped(store_of(*others, key))
    assert f"{key}: found {what}" in str(refusal.value) and "give the file of one" in str(refusal.value)


@pytest.mark.parametrize("content, what", [
    (b"GGUF\3\0\0\0" + bytes(99), "a GGUF file"), (b"\x89HDF\r\n" + bytes(99), "an HDF5 file"),
    (b"<!doctype html><html>", "a web page"), (b"\x93NUMPY\1\0" + bytes(99), "a single numpy array")])
def test_other_formats_are_named(content, what, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"found {what}"):
        open_file(path)


def test_quantized_weights(tmp_path, capsys):
    from support.goldens import build_checkpoint
    arrays = {key: value.astype(np.int8) for key, value in build_checkpoint("sv3d_p").items()}
    source = write_file(tmp_path / "int8.safetensors", arrays)
    assert convert(source, tmp_path / "a.safetensors", "--to", "safetensors", config=SV3D_P) == 2
    assert "they are quantized: use the model's file in full or half precision" in capsys.readouterr().err


def test_a_part_of_a_diffusers_folder(folder, tmp_path, capsys):
    for path, said in ((folder / "unet", "found one part of one (diffusion_pytorch_model.safetensors), expected a diffusers"
                                         " folder; give the folder above it"),
                       (folder / "unet/diffusion_pytorch_model.safetensors", "give the folder that has unet, vae and")):
        assert convert(path, tmp_path / "a.safetensors", "--to", "safetensors", config=SVD) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("key", [
    "label_emb.0.0.weight.absmax", "label_emb.0.0.weight.quant_state.bitsandbytes__nf4", "out.2.SCB", "out.2.scale_weight"])
def test_what_quantizers_add(key):
    """Shapes alone would make it another model."""
    keys = "model.diffusion_model.label_emb.0.0.weight", f"model.diffusion_model.{key}"
    with pytest.raises(CheckpointError, match="found quantized weights, expected plain ones; use the model's file in full"):
        unwrapped(store_of(*keys))


@pytest.mark.parametrize("keys", [(), ("model.layers.0.q_proj.weight", "lm_head.weight"), ("blocks.0.self_attn.q.weight",)])
def test_unknown_networks_get_no_flag_as_remedy(keys):
    with pytest.raises(CheckpointError, match="found none of the names of SVD or SV3D.* give the file of one of these"):
        unwrapped(store_of(*keys))


@pytest.mark.parametrize("key, kind", [
    ("lycoris_input_blocks_1_1_proj_in.lokr_w1", "a LoRA of kohya's scripts"), ("oft_unet_x.oft_blocks", "a LoRA of kohya's scripts"),
    ("diffusion_model.input_blocks.1.1.proj_in.diff", "a LoRA of another program"),
    ("diffusion_model.input_blocks.1.1.proj_in.diff_b", "a LoRA of another program")])
def test_changes_of_layers_are_no_model(key, kind):
    assert lora_kind([key]) == kind
