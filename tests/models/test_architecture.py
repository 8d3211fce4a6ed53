"""The lists of layers against the published keys, and a small network counted by hand."""
import json
from collections import Counter
from dataclasses import replace

import pytest
from support.paths import GOLDEN

from sgm.config.model import UNetSpec, VaeSpec
from sgm.config.model_files import load_spec
from sgm.models.architecture import (
    DOWNSAMPLE,
    HEAD,
    MIDDLE,
    RESIDUAL,
    STEM,
    TRANSFORMER,
    UPSAMPLE,
    Layer,
    decoder_layers,
    encoder_layers,
    unet_blocks,
    unet_layers,
)

MANIFESTS = GOLDEN / "manifests"
# By which parameter a kind of layer is known, and where its shape has the widths (out, in).
UNET_MARKS = {RESIDUAL: ".in_layers.2.weight", TRANSFORMER: ".proj_in.weight",
              DOWNSAMPLE: ".op.weight", UPSAMPLE: ".conv.weight"}
VAE_MARKS = {RESIDUAL: ".conv1.weight", MIDDLE: ".attn_1.q.weight",
             DOWNSAMPLE: ".downsample.conv.weight", UPSAMPLE: ".upsample.conv.weight"}


def widths_by_mark(shapes, prefix, marks):
    """{(key, kind): (width_in, width_out)} of the layers that a manifest shows."""
    found = {}
    for key, shape in shapes.items():
        for kind, mark in marks.items():
            if key.startswith(prefix) and key.endswith(mark) and ".time_stack" not in key:
                layer = key.removeprefix(prefix).removesuffix(mark)
                layer += "." + kind if mark.startswith(f".{kind}.") else ""
                if not layer.startswith("mid."):    # residuals of an autoencoder's middle are part of it
                    found[layer, kind] = shape[1], shape[0]
    return found


@pytest.mark.parametrize("name", ["svd", "svd_xt", "sv3d_u", "sv3d_p"])
def test_unet_is_the_published_one(name):
    shapes = json.loads((MANIFESTS / f"{name}.json").read_text())
    layers = unet_layers(load_spec(name).unet)
    assert {(layer.key, layer.kind): (layer.width_in, layer.width_out) for layer in layers
            if layer.kind in UNET_MARKS} == widths_by_mark(shapes, "model.diffusion_model.", UNET_MARKS)
    assert layers[0] == Layer("input_blocks.0.0", STEM, 8, 320, 0)
    assert layers[-1] == Layer("out", HEAD, 320, 4, 0)


@pytest.mark.parametrize("layers_of, prefix", [
    (encoder_layers, "conditioner.embedders.3.encoder.encoder."), (decoder_layers, "first_stage_model.decoder.")])
def test_autoencoder_is_the_published_one(layers_of, prefix):
    shapes = json.loads((MANIFESTS / "svd.json").read_text())
    layers = layers_of(load_spec("svd").vae)
    assert {(layer.key, layer.kind): (layer.width_in, layer.width_out) for layer in layers
            if layer.kind in VAE_MARKS} == widths_by_mark(shapes, prefix, VAE_MARKS)
    for layer in (layers[0], layers[-1]):
        assert [layer.width_out, layer.width_in, 3, 3] == shapes[f"{prefix}{layer.key}.weight"]


def test_released_unet_counted():
    """12 blocks on the way down and 12 up, 22 residual layers, attention on three of four levels."""
    blocks = unet_blocks(UNetSpec())
    assert [len(block) for block in blocks] == [
        1, 2, 2, 1, 2, 2, 1, 2, 2, 1, 1, 1, 3, 1, 1, 2, 2, 2, 3, 2, 2, 3, 2, 2, 2, 1]
    assert Counter(layer.kind for block in blocks for layer in block) == {
        STEM: 1, RESIDUAL: 8 + 2 + 12, TRANSFORMER: 6 + 1 + 9, DOWNSAMPLE: 3, UPSAMPLE: 3, HEAD: 1}


def test_small_unet_by_hand():
    """Two levels of one residual layer; only the coarser one attends."""
    spec = UNetSpec(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[2])
    assert unet_layers(spec) == [
        ("input_blocks.0.0", STEM, 8, 32, 0),
        ("input_blocks.1.0", RESIDUAL, 32, 32, 0),
        ("input_blocks.2.0", DOWNSAMPLE, 32, 32, 1),
        ("input_blocks.3.0", RESIDUAL, 32, 64, 1), ("input_blocks.3.1", TRANSFORMER, 64, 64, 1),
        ("middle_block.0", RESIDUAL, 64, 64, 1), ("middle_block.1", TRANSFORMER, 64, 64, 1),
        ("middle_block.2", RESIDUAL, 64, 64, 1),
        ("output_blocks.0.0", RESIDUAL, 64 + 64, 64, 1), ("output_blocks.0.1", TRANSFORMER, 64, 64, 1),
        ("output_blocks.1.0", RESIDUAL, 64 + 32, 64, 1), ("output_blocks.1.1", TRANSFORMER, 64, 64, 1),
        ("output_blocks.1.2", UPSAMPLE, 64, 64, 0),
        ("output_blocks.2.0", RESIDUAL, 64 + 32, 32, 0),
        ("output_blocks.3.0", RESIDUAL, 32 + 32, 32, 0),
        ("out", HEAD, 32, 4, 0)]


def test_small_autoencoder_by_hand():
    spec = replace(VaeSpec(), ch=32, ch_mult=[1, 2], num_res_blocks=1)
    assert encoder_layers(spec) == [
        ("conv_in", STEM, 3, 32, 0), ("down.0.block.0", RESIDUAL, 32, 32, 0),
        ("down.0.downsample", DOWNSAMPLE, 32, 32, 1), ("down.1.block.0", RESIDUAL, 32, 64, 1),
        ("mid", MIDDLE, 64, 64, 1), ("conv_out", HEAD, 64, 8, 1)]
    assert decoder_layers(spec) == [
        ("conv_in", STEM, 4, 64, 1), ("mid", MIDDLE, 64, 64, 1),
        ("up.1.block.0", RESIDUAL, 64, 64, 1), ("up.1.block.1", RESIDUAL, 64, 64, 1),
        ("up.1.upsample", UPSAMPLE, 64, 64, 0), ("up.0.block.0", RESIDUAL, 64, 32, 0),
        ("up.0.block.1", RESIDUAL, 32, 32, 0), ("conv_out", HEAD, 32, 3, 0)]
