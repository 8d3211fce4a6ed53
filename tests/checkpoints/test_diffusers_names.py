"""The published names and diffusers', by rule, against lists taken from the original code; which model a file is of."""
import json
from dataclasses import replace

import numpy as np
import pytest
from support.goldens import PACKAGED, manifest
from support.paths import GOLDEN

from sgm.checkpoints.diffusers.config_files import config_files
from sgm.checkpoints.diffusers.names import (
    MATRIX,
    PARTS,
    THIRD,
    TRANSPOSED,
    from_places,
    places,
    shape_at,
    to_place,
)
from sgm.checkpoints.dtypes import Entry
from sgm.checkpoints.identify import fingerprint_of, identify, with_decoder
from sgm.checkpoints.mapped_file import Checkpoint
from sgm.checkpoints.original_keys import is_unused, unused_keys, used_shapes
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec

MANIFESTS = GOLDEN / "manifests"
TINY = PACKAGED
RELEASED = ["svd", "svd_xt", "sv3d_u", "sv3d_p", "svd_image_decoder"]


def shapes_of(name):
    return {key: tuple(shape) for key, shape in json.loads((MANIFESTS / f"{name}.json").read_text()).items()}


def spec_of(name):
    if name != "svd_image_decoder":
        return load_spec(name)
    spec = load_spec("svd")
    return replace(spec, vae=replace(spec.vae, decoder="image", post_quant_conv=True))


@pytest.mark.parametrize("name", RELEASED)
def test_published_keys_and_shapes(name):
    """All 2212 to 2446 of them: `used_shapes` and `unused_keys` are the manifest, no key more, no key less."""
    expected, spec = shapes_of(name), spec_of(name)
    used, unused = used_shapes(spec), unused_keys(spec)
    assert sorted([*used, *unused]) == sorted(expected)
    assert used == {key: expected[key] for key in used}
    assert all(map(is_unused, unused))
    # the 1x1 convolution of svd_image_decoder's first stage, which its network has though nothing reads it
    assert [key for key in used if is_unused(key)] == [
        f"first_stage_model.quant_conv.{leaf}" for leaf in ("weight", "bias") if spec.vae.post_quant_conv]


@pytest.mark.parametrize("name", ["svd", "sv3d_u", "sv3d_p"])
def test_small_keys_and_shapes(name):
    expected, spec = {key: tuple(shape) for key, shape in manifest(name).items()}, load_spec(TINY / f"tiny_{name}.yaml")
    assert sorted([*used_shapes(spec), *unused_keys(spec)]) == sorted(expected)
    assert used_shapes(spec) == {key: expected[key] for key in used_shapes(spec)}


def test_every_tensor_of_the_published_diffusers_folder():
    """1428 + 374 + 520 names, what each is made of, how, and its shape."""
    how = {"None": ("", 0), "squeeze": (MATRIX, 0), "T": (TRANSPOSED, 0),
           **{f"('chunk', {third})": (THIRD, third) for third in range(3)}}
    expected = {}
    for part, names in json.loads((MANIFESTS / "diffusers_svd.json").read_text()).items():
        for name, (key, op, shape) in names.items():
            expected[part, name] = ("model.diffusion_model." * (part == "unet") + key, *how[op], tuple(shape))
    spec, found = load_spec("svd"), {}
    for key, shape in used_shapes(spec).items():
        for place in places(key, spec):
            assert (place.part, place.name) not in found
            found[place.part, place.name] = (key, place.how, place.third, shape_at(place, shape))
    assert [sum(part == name for part, _ in found) for name in PARTS] == [1428, 374, 520]
    assert found == expected


@pytest.mark.parametrize("name", [*RELEASED, "sv3d_tiny", TINY / "tiny_sv3d_u.yaml"])
def test_no_two_tensors_share_a_place(name):
    spec = spec_of(name)
    found = [place[:2] for key in used_shapes(spec) if not is_unused(key) for place in places(key, spec)]
    assert len(set(found)) == len(found)
    assert ("vae", "decoder.mid_block.resnets.0.norm1.weight") in found or spec.vae.decoder == "temporal"
    for half in ("temporal_res_block", "spatial_res_block"):  # names that an AutoencoderKL does not have
        assert any(part == "vae" and half in name for part, name in found) == (spec.vae.decoder == "temporal")


def test_a_stranger_has_no_place():
    with pytest.raises(ValueError, match="found no such network"):
        places("conditioner.embedders.1.encoder.quant_conv.weight", load_spec("svd"))      # it is embedder 3 there


CLIP = "conditioner.embedders.0.open_clip.model.visual."


@pytest.mark.parametrize("key, shape, count", [
    ("first_stage_model.decoder.mid.attn_1.q.weight", (6, 5, 1, 1), 1), (CLIP + "proj", (6, 5), 1),
    (CLIP + "transformer.resblocks.3.attn.in_proj_weight", (6, 5), 3), (CLIP + "ln_pre.bias", (6,), 1)])
def test_there_and_back(key, shape, count):
    found, array = places(key, load_spec("svd")), np.arange(np.prod(shape)).reshape(shape)
    parts = [to_place(array, place) for place in found]
    assert [part.shape for part in parts] == [shape_at(place, shape) for place in found] and len(parts) == count
    assert np.array_equal(from_places(parts, found), array)


def test_configuration_files_are_those_of_the_published_folder():
    files = config_files(load_spec("svd"))
    for part in PARTS:
        expected = json.loads((MANIFESTS / f"diffusers_svd_{part}.config.json").read_text())
        ours = {key: value for key, value in files[f"{part}/config.json"].items() if not key.startswith("_")}
        if part == "image_encoder":             # which transformers wrote from a configuration, not from a network
            assert ours.pop("architectures") == ["CLIPVisionModelWithProjection"]
            assert ours == {key: expected[key] for key in ours}
        else:
            assert ours == {key: value for key, value in expected.items() if not key.startswith("_")}
    scheduler = files["scheduler/scheduler_config.json"]
    assert (scheduler["sigma_min"], scheduler["sigma_max"], scheduler["use_karras_sigmas"]) == (0.002, 700.0, True)


def test_a_model_that_diffusers_cannot_express():
    spec = load_spec("sv3d_tiny")
    with pytest.raises(CheckpointError, match="unet.norm_groups: found 8, expected 32"):
        config_files(spec)
    spec = replace(spec, unet=replace(spec.unet, norm_groups=32))
    assert config_files(spec)["vae/config.json"]["norm_num_groups"] == 8
    with pytest.raises(CheckpointError, match="vae.norm_groups: found 8, expected 32"):
        config_files(replace(spec, vae=replace(spec.vae, decoder="temporal")))


# --- which model it is -----------------------------------------------------------------------------------------

def store(name, path):
    return Checkpoint(path, "safetensors", {key: Entry("F32", shape, ()) for key, shape in shapes_of(name).items()}, {}, b"")


@pytest.mark.parametrize("name, path, frames, expected", [
    ("sv3d_u", "a.safetensors", None, "sv3d_u"), ("sv3d_p", "sv3d_u.safetensors", None, "sv3d_p"),
    ("svd", "weights.safetensors", None, "svd"), ("svd_xt", "svd_xt_1_1.safetensors", None, "svd_xt"),
    ("svd", "svd.safetensors", 25, "svd_xt"), ("svd_image_decoder", "svd_image_decoder.safetensors", None, "svd")])
def test_released_models_are_identified(name, path, frames, expected):
    checkpoint = store(name, path)
    spec = identify(fingerprint_of(checkpoint), checkpoint.path, frames)
    assert spec == load_spec(expected)
    assert with_decoder(spec, fingerprint_of(checkpoint)).vae == spec_of(name).vae


def test_what_is_of_no_model_of_ours():
    checkpoint = store("svd", "x.safetensors")
    fingerprint = fingerprint_of(checkpoint)
    for changed, expected in ((dict(channels=64), "found a UNet of 64 channels with a vector condition of 768"),
                              (dict(channels=None), "found no UNet, expected that of sv3d_p, ")):
        with pytest.raises(CheckpointError, match=expected):
            identify(fingerprint._replace(**changed), checkpoint.path)
