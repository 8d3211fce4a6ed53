"""Which model a file is of."""
import json

import pytest
from support.goldens import build_checkpoint
from support.published import MANIFESTS, RELEASED, shapes_of, spec_of
from support.tensor_files import BIAS, error_of, saved

from sgm.checkpoints.dtypes import Entry
from sgm.checkpoints.identify import Fingerprint, adapt_spec, fingerprint_of, identify, with_decoder
from sgm.checkpoints.mapped_file import Checkpoint, open_checkpoint
from sgm.checkpoints.original_keys import is_unused
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec


def published(name, **changes):
    """An open checkpoint with the published keys and shapes, without data."""
    shapes = {**json.loads((MANIFESTS / f"{name}.json").read_text()), **changes}
    return Checkpoint(f"{name}.safetensors", "safetensors",
                      {key: Entry("F32", tuple(shape), ()) for key, shape in shapes.items()}, {}, b"")


@pytest.mark.parametrize("name, fingerprint", list(zip(RELEASED, [
    Fingerprint("temporal", False, 768, 3, 320, 8), Fingerprint("temporal", False, 768, 3, 320, 8),
    Fingerprint("image", False, 256, 1, 320, 8), Fingerprint("image", False, 1280, 1, 320, 8),
    Fingerprint("image", True, 768, 3, 320, 8)])))
def test_published_fingerprints(name, fingerprint):
    checkpoint = published(name)
    assert fingerprint_of(checkpoint) == fingerprint
    config = "svd" if name == "svd_image_decoder" else name
    spec = adapt_spec(load_spec(config), checkpoint)
    assert (spec.vae.decoder, spec.vae.post_quant_conv) == fingerprint[:2]
    assert config != name or spec == load_spec(name)
    # the conditioner's decoder and post_quant_conv, six text remnants, and a first-stage encoder where there is one
    encoder = 106 * (not name.startswith("sv3d"))
    assert sum(map(is_unused, checkpoint)) == 138 + 2 + 6 + encoder + 2 * fingerprint.post_quant_conv


@pytest.mark.parametrize("config, name, expected", [
    ("sv3d_p", "sv3d_u", "found 256 columns, expected 1280 for sv3d_p; it looks like sv3d_u: pass model sv3d_u"),
    ("sv3d_u", "sv3d_p", "found 1280 columns, expected 256 for sv3d_u; it looks like sv3d_p: pass model sv3d_p"),
    ("sv3d_u", "svd_xt", "it looks like svd or svd_xt: pass model svd")])
def test_another_model_is_named(config, name, expected):
    message = error_of(adapt_spec, load_spec(config), published(name))
    assert message.startswith(f"{name}.safetensors: ") and expected in message


def test_another_width_and_no_model_of_ours(tmp_path):
    path = saved(tmp_path, build_checkpoint("sv3d_u"))
    assert "found 32 channels, expected 320 for sv3d_u; it looks like sv3d_u of other widths" in error_of(
        adapt_spec, load_spec("sv3d_u"), open_checkpoint(path))
    unknown = published("sv3d_u", **{"model.diffusion_model.label_emb.0.0.weight": [1280, 99]})
    assert "found 99 columns, expected 256 for sv3d_u; it is another model" in error_of(
        adapt_spec, load_spec("sv3d_u"), unknown)
    other = open_checkpoint(saved(tmp_path, {"a": BIAS}, "other.safetensors"))
    assert adapt_spec(load_spec("sv3d_u"), other) == load_spec("sv3d_u")
    part = open_checkpoint(saved(tmp_path, {"down_blocks.0.resnets.0.conv1.weight": BIAS}, "part.safetensors"))
    assert "found the names of a part of a diffusers folder" in error_of(adapt_spec, load_spec("sv3d_u"), part)


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
