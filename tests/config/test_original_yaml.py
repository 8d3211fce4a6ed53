"""The original's own YAML files: the same specs; what is not understood is refused."""
import copy
import dataclasses
import json
import re

import pytest
import yaml
from support.configuring import ORBIT_EMBEDDERS, POSED_EMBEDDERS, RELEASED, error_of, orbit
from support.goldens import GOLDEN, PACKAGED

from sgm.config.model import ClipSpec, ModelSpec, SamplingSpec, UNetSpec, VaeSpec
from sgm.config.model_files import load_spec

TINY = dict(
    num_frames=5, unet=UNetSpec(model_channels=32, channel_mult=[1, 2, 2], num_res_blocks=1,
                                attention_resolutions=[2, 1], num_head_channels=16, context_dim=64),
    clip=ClipSpec(patch_size=28, width=160, layers=2, embed_dim=64))
TINY_VAE = VaeSpec(ch=32, ch_mult=[1, 1, 2, 2], num_res_blocks=1, decoder="image")
TINY_SPECS = {
    "tiny_svd": ModelSpec(name="tiny_svd", vae=dataclasses.replace(TINY_VAE, decoder="temporal"),
                          sampling=SamplingSpec(steps=10), **TINY),
    "tiny_sv3d_u": orbit("tiny_sv3d_u", ORBIT_EMBEDDERS, vae=TINY_VAE,
                         sampling=SamplingSpec(steps=10, guidance="triangle"), **TINY),
    "tiny_sv3d_p": orbit("tiny_sv3d_p", POSED_EMBEDDERS, vae=TINY_VAE,
                         sampling=SamplingSpec(steps=10, guidance="triangle"), **TINY),
}


@pytest.mark.parametrize("name", TINY_SPECS)
def test_reference_files_of_the_goldens(name):
    assert load_spec(PACKAGED / f"{name}.yaml") == TINY_SPECS[name]
    keys = json.loads((GOLDEN / f"{name}.manifest.json").read_text())
    assert keys["model.diffusion_model.label_emb.0.0.weight"][1] == sum(TINY_SPECS[name].vector_widths.values())


def reference(name):
    return yaml.safe_load((PACKAGED / f"{name}.yaml").read_text())


def node(document, path):
    """The params at a dotted path of parts, below model.params."""
    place = document["model"]["params"]
    for part in path.split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]
        place = place["params"] if isinstance(place, dict) and "params" in place else place
    return place


FULL_VAE = {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}


def full_size(name, checkpoint):
    """A golden's file as the released model's is: full widths, a checkpoint, no frames, no steps."""
    document = reference(name)
    params = document["model"]["params"]
    params["ckpt_path"] = f"checkpoints/{checkpoint}.safetensors"
    node(document, "network_config").update(
        model_channels=320, channel_mult=[1, 2, 4, 4], num_res_blocks=2, attention_resolutions=[4, 2, 1],
        num_head_channels=64, context_dim=1024, use_checkpoint=True, spatial_transformer_attn_type="softmax-xformers")
    for embedder in node(document, "conditioner_config.emb_models"):
        inner = embedder["params"].get("open_clip_embedding_config")
        if inner:
            inner["params"] = {"freeze": True}
        if "encoder_config" in embedder["params"]:
            embedder["params"]["n_copies"] = 21
            embedder["params"]["encoder_config"]["params"]["ddconfig"].update(FULL_VAE, attn_type="vanilla-xformers")
    for part in ("encoder_config", "decoder_config"):
        if "params" in node(document, "first_stage_config")[part]:
            node(document, f"first_stage_config.{part}").update(FULL_VAE)
    sampler = params["sampler_config"]["params"]
    del sampler["num_steps"], sampler["device"], sampler["verbose"], sampler["guider_config"]["params"]["num_frames"]
    return document


def read(tmp_path, document, name="mine"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_spec(path)


@pytest.mark.parametrize("name", RELEASED)
def test_reference_files_of_the_released_models(name, tmp_path):
    document = full_size("tiny_svd" if name == "svd_xt" else f"tiny_{name}", name)
    if name == "svd_xt":
        node(document, "sampler_config.guider_config").update(min_scale=1.5, max_scale=3.0)
    assert read(tmp_path, document) == dataclasses.replace(RELEASED[name], name="mine")
    del document["model"]["params"]["ckpt_path"], document["model"]["params"]["sampler_config"]
    assert read(tmp_path, document, f"{name}_1_1") == dataclasses.replace(RELEASED[name], name=f"{name}_1_1")


def test_reference_image_decoder_and_other_samplers(tmp_path):
    document = full_size("tiny_svd", "svd_image_decoder")
    document["model"]["params"]["first_stage_config"] = {
        "target": "sgm.models.autoencoder.AutoencoderKL",
        "params": copy.deepcopy(node(document, "conditioner_config.emb_models.3.encoder_config"))}
    sampler = document["model"]["params"]["sampler_config"]
    sampler["target"] = "sgm.modules.diffusionmodules.sampling.HeunEDMSampler"
    sampler["params"]["guider_config"] = {"target": "sgm.modules.diffusionmodules.guiders.VanillaCFG",
                                          "params": {"scale": 3.0}}
    spec = read(tmp_path, document)
    assert spec.vae == VaeSpec(decoder="image", post_quant_conv=True) and spec.num_frames == 14
    assert spec.sampling == SamplingSpec(sampler="heun", guidance="constant", min_scale=3.0, max_scale=3.0)


def change(path, **values):
    return lambda document: node(document, path).update(values)


def retarget(path, target):
    def edit(document):
        place, _, part = path.rpartition(".")
        parent = node(document, place) if place else document["model"]["params"]
        parent[int(part) if part.isdigit() else part]["target"] = target
    return edit


@pytest.mark.parametrize("edit, expected", [
    (retarget("network_config", "os.system"), r"network_config\.target: found os\.system, expected .*VideoUNet"),
    (retarget("first_stage_config.decoder_config", "a.b.OtherDecoder"), r"decoder_config\.target: found a\.b\.Other"),
    (retarget("sampler_config", "x.EulerAncestralSampler"), r"expected .* EulerEDMSampler, HeunEDMSampler"),
    (retarget("conditioner_config.emb_models.2", "x.Other"), r"emb_models\.2\.target: found x\.Other, .*TimestepEmb"),
    (retarget("denoiser_config", "x.DiscreteDenoiser"), r"found x\.DiscreteDenoiser, expected .* Denoiser"),
    (change("network_config", transformer_depth=2), r"transformer_depth: found 2, expected 1, the only form"),
    (change("network_config", merge_strategy="fixed"), r"merge_strategy: found 'fixed', expected 'learned_with_"),
    (change("network_config", chanel_mult=[1]), r"chanel_mult: unknown parameter.*nearest known one is channel_mult"),
    (lambda document: node(document, "network_config").update({7: 8}), r"network_config\.params\.7: unknown parameter"),
    (change("network_config", model_channels="wide"), r"unet\.model_channels: found 'wide', expected int"),
    (change("network_config", adm_in_channels=768), r"adm_in_channels: found 768, expected 1280"),
    (lambda document: node(document, "network_config").pop("context_dim"), r"context_dim: found nothing"),
    (lambda document: document["model"].pop("params"), r"model\.params\.network_config: found nothing"),
    (change("first_stage_config.decoder_config", ch=64), r"ddconfig: vae\.ch: found 32, expected 64 as in"),
    (change("conditioner_config.emb_models.0.open_clip_embedding_config", arch="ViT-L-14"),
     r"arch: found 'ViT-L-14', expected one of ViT-H-14, tiny-vit"),
    (change("conditioner_config.emb_models.0", n_cond_frames=2), r"n_cond_frames: found 2, expected 1"),
    (change("conditioner_config", emb_models=None), r"emb_models: found nothing, expected a list"),
    (change("conditioner_config", emb_models=[{"input_key": ["a"]}]), r"emb_models\.0.*found \['a'\], expected a name"),
    (change("conditioner_config.emb_models.2", outdim=None), r"condition\.scalar_dim: found nothing"),
])
def test_a_reference_file_that_is_not_understood_is_refused(edit, expected, tmp_path):
    document = reference("tiny_sv3d_p")
    edit(document)
    message = error_of(read, tmp_path, document)
    assert message.startswith(str(tmp_path / "mine.yaml")) and re.search(expected, message)
