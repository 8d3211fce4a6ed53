"""The layers of the UNet and of the autoencoder, as lists without any framework.

Constructors (`unet`, `autoencoder`), key lists (`sgm.checkpoints.original_keys`), operations
(`sgm.audit.reference_flops`) and memory estimates (`sgm.train.run.plan`) are all read from these
lists, so how levels, widths and skip connections follow one another is written down once.
"""
from typing import NamedTuple

from sgm.config.model import UNetSpec, VaeSpec

STEM, HEAD = "stem", "head"             # first convolution; last norm and convolution
RESIDUAL, TRANSFORMER = "residual", "transformer"
MIDDLE = "middle"                       # the autoencoder's residual, attention, residual
DOWNSAMPLE, UPSAMPLE = "downsample", "upsample"


class Layer(NamedTuple):
    """One layer by its published key, relative to its network ("input_blocks.4.1", "up.0.block.2").

    Widths are channels of the input (skip connection included) and of the result, whose map has
    1 / 2^level of the sides that the network's largest map has.
    """
    key: str
    kind: str
    width_in: int
    width_out: int
    level: int


def unet_blocks(spec: UNetSpec) -> list[tuple[Layer, ...]]:
    """Return the blocks of the UNet as tuples of `Layer`s, in running order.

    A block is what the published keys number: `input_blocks.N`, `middle_block`, `output_blocks.N`,
    and last `out`. The result of each input block is kept, and joins the input of the output block
    that mirrors it.
    """
    widths = [spec.model_channels * multiple for multiple in spec.channel_mult]
    kinds = [[RESIDUAL, TRANSFORMER] if 2 ** level in spec.attention_resolutions else [RESIDUAL]
             for level in range(len(widths))]
    last, now = len(widths) - 1, spec.model_channels
    blocks = [_block("input_blocks.0", [STEM], spec.in_channels, now, 0)]
    for level, width in enumerate(widths):
        for _ in range(spec.num_res_blocks):
            key = f"input_blocks.{len(blocks)}"
            blocks.append(_block(key, kinds[level], now, width, level))
            now = width
        if level < last:
            key = f"input_blocks.{len(blocks)}"
            blocks.append(_block(key, [DOWNSAMPLE], now, now, level + 1))
    skips = [block[-1].width_out for block in blocks]
    # The middle attends at any resolution.
    blocks.append(_block("middle_block", [RESIDUAL, TRANSFORMER, RESIDUAL], now, now, last))
    first = len(blocks)
    for level in reversed(range(len(widths))):
        for i in range(spec.num_res_blocks + 1):
            key = f"output_blocks.{len(blocks) - first}"
            upsample = [UPSAMPLE] if level and i == spec.num_res_blocks else []
            width_in, now = now + skips.pop(), widths[level]
            blocks.append(_block(key, kinds[level] + upsample, width_in, now, level))
    blocks.append((Layer("out", HEAD, now, spec.out_channels, 0),))
    return blocks


def _block(key, kinds, width_in, width_out, level):
    """Return the layers of one block; its first layer changes the width, upsampling the level."""
    return tuple(Layer(f"{key}.{i}", kind, width_out if i else width_in, width_out,
                       level - (kind == UPSAMPLE)) for i, kind in enumerate(kinds))


def unet_layers(spec: UNetSpec) -> list[Layer]:
    """Return the `Layer`s of all `unet_blocks` in one list."""
    return [layer for block in unet_blocks(spec) for layer in block]


def encoder_layers(spec: VaeSpec) -> list[Layer]:
    """Return the `Layer`s of the autoencoder's encoder, in running order."""
    layers, now, last = [Layer("conv_in", STEM, 3, spec.ch, 0)], spec.ch, len(spec.ch_mult) - 1
    for level, multiple in enumerate(spec.ch_mult):
        for i in range(spec.num_res_blocks):
            width = multiple * spec.ch
            layers.append(Layer(f"down.{level}.block.{i}", RESIDUAL, now, width, level))
            now = width
        if level < last:
            layers.append(Layer(f"down.{level}.downsample", DOWNSAMPLE, now, now, level + 1))
    layers.append(Layer("mid", MIDDLE, now, now, last))
    layers.append(Layer("conv_out", HEAD, now, 2 * spec.z_channels, last))
    return layers


def decoder_layers(spec: VaeSpec) -> list[Layer]:
    """Return the `Layer`s of the decoder, frame by frame or over time, in running order."""
    last = len(spec.ch_mult) - 1
    now = spec.ch * spec.ch_mult[last]
    layers = [Layer("conv_in", STEM, spec.z_channels, now, last),
              Layer("mid", MIDDLE, now, now, last)]
    for level in range(last, -1, -1):
        width = spec.ch * spec.ch_mult[level]
        for i in range(spec.num_res_blocks + 1):
            layers.append(Layer(f"up.{level}.block.{i}", RESIDUAL, now, width, level))
            now = width
        if level:
            layers.append(Layer(f"up.{level}.upsample", UPSAMPLE, now, now, level - 1))
    layers.append(Layer("conv_out", HEAD, now, 3, 0))
    return layers
