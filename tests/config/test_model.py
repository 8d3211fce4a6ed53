"""Configurations: the released models, the reference's own files, and what a wrong file is told."""
import copy
import dataclasses
import json
import re
from pathlib import Path
from typing import List

import pytest
import yaml
from support.goldens import GOLDEN, PACKAGED

from sgm.config.model import ClipSpec, ConditionSpec, ModelSpec, SamplingSpec, UNetSpec, VaeSpec
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import ConfigError, load_yaml

ORBIT_EMBEDDERS = ["cond_frames_without_noise", "cond_frames", "cond_aug"]
POSED_EMBEDDERS = ORBIT_EMBEDDERS + ["polars_rad", "azimuths_rad"]


def orbit(name, embedders, **fields):
    return ModelSpec(name=name, **{**dict(
        num_frames=21, width=576, vae=VaeSpec(decoder="image"), condition=ConditionSpec(embedders, cond_aug=1e-5),
        sampling=SamplingSpec(steps=50, guidance="triangle")), **fields})


RELEASED = {
    "svd": ModelSpec(),
    "svd_xt": ModelSpec(name="svd_xt", num_frames=25, sampling=SamplingSpec(steps=30, min_scale=1.5, max_scale=3.0)),
    "sv3d_u": orbit("sv3d_u", ORBIT_EMBEDDERS),
    "sv3d_p": orbit("sv3d_p", POSED_EMBEDDERS),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_models(name):
    spec = load_spec(name)
    assert spec == RELEASED[name]
    keys = json.loads((GOLDEN / "manifests" / f"{name}.json").read_text())
    assert keys["model.diffusion_model.label_emb.0.0.weight"][1] == sum(spec.vector_widths.values())
    assert spec.is_orbit == name.startswith("sv3d") and spec.is_posed == (name == "sv3d_p") and spec.vae_factor == 8


@pytest.mark.parametrize("given", ["sv3d_u", "configs/sv3d_u.yaml", "elsewhere/sv3d_u.yml", "sv3d_u.yaml",
                                   Path("configs/sv3d_u.yaml")])
def test_found_by_name_and_by_path_that_does_not_exist(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_spec(given) == RELEASED["sv3d_u"]


def test_an_existing_file_wins_over_its_stem(tmp_path):
    (tmp_path / "sv3d_u.yaml").write_text("name: mine\nnum_frames: 3\n")
    assert load_spec(tmp_path / "sv3d_u.yaml") == ModelSpec(name="mine", num_frames=3)


def test_overrides_come_last():
    spec = load_spec("svd_xt", ["num_frames=5", "sampling.max_scale=4", "condition.cond_aug=1e-3",
                                "unet.channel_mult=[1,2]", "unet.attention_resolutions=[2,1]", "name=a=b"])
    assert (spec.num_frames, spec.sampling.max_scale, spec.condition.cond_aug) == (5, 4.0, 1e-3)
    assert spec.unet == UNetSpec(channel_mult=[1, 2], attention_resolutions=[2, 1])
    assert spec.name == "a=b" and spec.sampling.min_scale == 1.5


def error_of(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def written(folder, text):
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("text, expected", [
    ("steps: 3", "steps: unknown key; the nearest known key is sampling.steps"),
    ("sampling: {stepz: 3}", "sampling.stepz: unknown key; the nearest known key is sampling.steps"),
    ("qqq: 3", "qqq: unknown key; known keys are name, num_frames"),
    ("unet: {qqq: 3}", "unet.qqq: unknown key; known keys are unet.in_channels"),
    ("1: 3", "1: unknown key"),
    ("sampling: {steps: many}", "sampling.steps: found 'many', expected int"),
    ("sampling: {steps: 2.5}", "sampling.steps: found 2.5, expected int"),
    ("sampling: {steps: true}", "sampling.steps: found True, expected int"),
    ("vae: {post_quant_conv: 7}", "vae.post_quant_conv: found 7, expected bool"),
    ("sampling: euler", "sampling: found 'euler', expected a mapping of sampler, steps"),
    ("sampling:", "sampling: found nothing, expected a mapping"),
    ("name: ???", "name: found '???', expected str"),
    ("unet: {channel_mult: 3}", "unet.channel_mult: found 3, expected List[int]"),
    ("unet: {channel_mult: [a]}", "unet.channel_mult: found ['a'], expected List[int]"),
    ("unet: {channel_mult: [{a: 1}]}", "unet.channel_mult: found [{'a': 1}], expected List[int]"),
    ("unet: {channel_mult: [true, 2]}", "unet.channel_mult: found [True, 2], expected List[int]"),
    ("", "found nothing, expected a mapping"),
    ("- a", "found a sequence, expected a mapping"),
    ("just words", "found a scalar, expected a mapping"),
    ("a: [1", "not valid YAML"),
    ("name: a\nname: b", "not valid YAML"),
    ("name: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ("name: ${oc.env:HOME}", "expected a plain value, not an interpolation"),
    (b"\xff\xfe\x00", "not text"),
    (b"\x00\x01\x02", "not valid YAML"),
    ("#" * 300_000, "larger than 256 KB"),
    ("a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
     "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d]", "more than 2000 values"),
    ("a: &a [*a]", "nested too deeply"),
    ("a: " + "[" * 100 + "]" * 100, "nested too deeply"),
    ("[" * 4_000, "nested too deeply"),
])
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, expected):
    path = written(tmp_path, text)
    message = error_of(load_spec, path)
    assert message.startswith(f"{path}: ") and expected in message


@pytest.mark.parametrize("override, expected", [
    ("num_frames=0", "num_frames: found 0, expected a positive number"),
    ("height=100", "height: found 100, expected a positive multiple of 64"),
    ("unet.model_channels=330", "unet.model_channels: found 330, expected 330 channels"),
    ("unet.num_head_channels=0", "unet.num_head_channels: found 0"),
    ("unet.channel_mult=[]", "unet.channel_mult: found []"),
    ("unet.attention_resolutions=[16]", "unet.attention_resolutions: found [16], expected some of [1, 2, 4, 8]"),
    ("unet.in_channels=4", "unet.in_channels: found 4, expected 8"),
    ("unet.out_channels=8", "unet.out_channels: found 8, expected vae.z_channels 4"),
    ("vae.ch=100", "vae.ch: found 100"),
    ("vae.decoder=video", "vae.decoder: found 'video', expected one of image, temporal"),
    ("vae.scale_factor=.inf", "vae.scale_factor: found inf"),
    ("clip.patch_size=15", "clip.patch_size: found 15, expected a divisor"),
    ("clip.head_width=77", "clip.head_width: found 77, expected a divisor"),
    ("clip.embed_dim=512", "clip.embed_dim: found 512, expected unet.context_dim 1024"),
    ("condition.embedders=[cond_frames,depth]", "condition.embedders: found 'depth', expected one of"),
    ("condition.embedders=[cond_frames,cond_aug]", "cond_frames_without_noise, cond_frames and cond_aug among them"),
    ("condition.embedders=[cond_frames,cond_frames]", "expected each embedder once"),
    ("condition.embedders=[cond_frames_without_noise,cond_frames,cond_aug,polars_rad]", "both, or neither"),
    ("condition.scalar_dim=255", "condition.scalar_dim: found 255"),
    ("condition.cond_aug=-1", "condition.cond_aug: found -1.0"),
    ("sampling.sampler=ddim", "sampling.sampler: found 'ddim', expected one of euler, heun, dpmpp2m"),
    ("sampling.guidance=cfg", "sampling.guidance: found 'cfg', expected one of linear"),
    ("sampling.start_noise=1.5", "sampling.start_noise: found 1.5, expected a number from 0 to 1"),
    ("sampling.sigma_min=701", "sampling.sigma_min: found 701.0, expected less than"),
    ("sampling.steps=-1", "sampling.steps: found -1"),
    ("sampling.max_scale=.nan", "sampling.max_scale: found nan"),
    ("sampling.stepz=3", "--set sampling.stepz: unknown key"),
    ("unet.channel_mult[0]=3", "--set unet.channel_mult[0]: unknown key; the nearest known key is unet.channel_mult"),
    ("num_frames", "--set num_frames: expected key=value"),
    ("=3", "--set =3: expected key=value"),
    ("unet.channel_mult=[1", "--set unet.channel_mult: not valid YAML"),
])
def test_a_wrong_override_is_told_in_one_line(override, expected):
    assert expected in error_of(load_spec, "svd", [override])


@pytest.mark.parametrize("model, expected", [
    ("sv3dp", "the nearest name is sv3d_p"), ("nothing.yaml", "expected a YAML file or one of sv3d_p, "),
    ("configs", "no such file or name"), ("sv3d_u.safetensors", "the nearest name is sv3d_u"),
    (".", "found a directory"), ("", "found a directory")])
def test_a_wrong_name_lists_the_names(model, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in error_of(load_spec, model)


def test_any_dataclass_can_be_a_schema(tmp_path):
    @dataclasses.dataclass
    class Optimizer:
        lr: float = 1e-4
        betas: List[float] = dataclasses.field(default_factory=lambda: [0.9, 0.999])

    @dataclasses.dataclass
    class Recipe:
        steps: int = 10
        optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

        def validate(self):
            if self.steps < 1:
                raise ConfigError(f"steps: found {self.steps}, expected at least 1")

    path = written(tmp_path, "optimizer: {lr: 3.0e-5}")
    assert load_yaml(Recipe, path, ["steps=7"]) == Recipe(7, Optimizer(3e-5))
    message = error_of(load_yaml, Recipe, path, ["steps=0"])
    assert message == f"{path} with --set steps=0: steps: found 0, expected at least 1"
    assert "the nearest known key is optimizer.lr" in error_of(load_yaml, Recipe, written(tmp_path, "lr: 3"))


# --- the reference's own form ----------------------------------------------------------------------------------

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
