"""The published names: keys and shapes of a model, and which of them nothing uses.

Our parameters have these names. Everything is derived from the `ModelSpec`; tests compare it with
lists taken from the original code.
"""
import re

from sgm.config.model import ModelSpec
from sgm.models.architecture import (
    DOWNSAMPLE,
    HEAD,
    MIDDLE,
    RESIDUAL,
    STEM,
    TRANSFORMER,
    UPSAMPLE,
    decoder_layers,
    encoder_layers,
    unet_layers,
)

UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
CONDITIONER = "conditioner.embedders."
TEXT_REMNANTS = ("ln_final.weight", "ln_final.bias", "logit_scale", "positional_embedding",
                 "text_projection", "token_embedding.weight")
# Published keys that nothing reads: what is left of CLIP's text tower, the decoder inside the
# conditioner's autoencoder, and the first stage's own encoder (the conditioner's is used).
_UNUSED = re.compile(
    rf"conditioner\.embedders\.\d+\.open_clip\.model\.({'|'.join(map(re.escape, TEXT_REMNANTS))})$"
    r"|conditioner\.embedders\.\d+\.encoder\.(decoder|post_quant_conv)\."
    r"|first_stage_model\.(encoder|quant_conv)\.")


def is_unused(key: str) -> bool:
    """Return whether a published key has no use in sampling or training."""
    return _UNUSED.match(key) is not None


class _Shapes(dict):
    """{key: shape} that grows layer by layer."""

    def layer(self, key, *shape, bias=True):
        """Add a linear layer (out, in), convolution (out, in, ...) or norm (width)."""
        self[key + ".weight"] = shape
        if bias:
            self[key + ".bias"] = shape[:1]


def image_embedders(spec: ModelSpec) -> tuple[str, str]:
    """Return the prefixes of CLIP and the autoencoder, whose place among the embedders differs."""
    return tuple(f"{CONDITIONER}{spec.condition.embedders.index(name)}."
                 for name in ("cond_frames_without_noise", "cond_frames"))


def used_shapes(spec: ModelSpec) -> dict[str, tuple]:
    """Return {published key: shape} of the parameters of an Engine of this spec."""
    shapes, (clip, vae) = _Shapes(), image_embedders(spec)
    _unet(shapes, UNET, spec.unet, sum(spec.vector_widths.values()))
    _clip(shapes, clip + "open_clip.model.visual.", spec.clip)
    _coder(shapes, vae + "encoder.encoder.", encoder_layers(spec.vae))
    z = spec.vae.z_channels
    shapes.layer(vae + "encoder.quant_conv", 2 * z, 2 * z, 1, 1)
    temporal = spec.vae.decoder == "temporal"
    _coder(shapes, FIRST_STAGE + "decoder.", decoder_layers(spec.vae), temporal)
    if spec.vae.post_quant_conv:
        shapes.layer(FIRST_STAGE + "quant_conv", 2 * z, 2 * z, 1, 1)
        shapes.layer(FIRST_STAGE + "post_quant_conv", z, z, 1, 1)
    return shapes


def unused_keys(spec: ModelSpec) -> list[str]:
    """Return the list of published keys of a model that nothing reads, beyond `used_shapes`."""
    shapes, (clip, vae) = _Shapes(), image_embedders(spec)
    _coder(shapes, vae + "encoder.decoder.", decoder_layers(spec.vae))
    shapes.layer(vae + "encoder.post_quant_conv", 1)
    if not spec.is_orbit:                       # SV3D was published without it
        _coder(shapes, FIRST_STAGE + "encoder.", encoder_layers(spec.vae))
    return [f"{clip}open_clip.model.{name}" for name in TEXT_REMNANTS] + list(shapes)


def _unet(shapes, prefix, spec, vector_width):
    width = spec.model_channels
    embedding = 4 * width

    def residual(key, before, after):
        for part, into, kernel in (("", before, (3, 3)), (".time_stack", after, (3, 1, 1))):
            shapes.layer(f"{key}{part}.in_layers.0", into)
            shapes.layer(f"{key}{part}.in_layers.2", after, into, *kernel)
            shapes.layer(f"{key}{part}.emb_layers.1", after, embedding)
            shapes.layer(f"{key}{part}.out_layers.0", after)
            shapes.layer(f"{key}{part}.out_layers.3", after, after, *kernel)
        if before != after:
            shapes.layer(f"{key}.skip_connection", after, before, 1, 1)
        shapes[f"{key}.time_mixer.mix_factor"] = (1,)

    def transformer(key, width):
        shapes.layer(f"{key}.norm", width)
        for name in ("proj_in", "proj_out"):
            shapes.layer(f"{key}.{name}", width, width)
        for block, norms, forwards in (
                (".transformer_blocks.0", ("norm1", "norm2", "norm3"), ("ff",)),
                (".time_stack.0", ("norm_in", "norm1", "norm2", "norm3"), ("ff_in", "ff"))):
            for norm in norms:
                shapes.layer(f"{key}{block}.{norm}", width)
            for attention, source in (("attn1", width), ("attn2", spec.context_dim)):
                for name, into in (("to_q", width), ("to_k", source), ("to_v", source)):
                    shapes.layer(f"{key}{block}.{attention}.{name}", width, into, bias=False)
                shapes.layer(f"{key}{block}.{attention}.to_out.0", width, width)
            for forward in forwards:
                shapes.layer(f"{key}{block}.{forward}.net.0.proj", 8 * width, width)
                shapes.layer(f"{key}{block}.{forward}.net.2", width, 4 * width)
        shapes.layer(f"{key}.time_pos_embed.0", 4 * width, width)
        shapes.layer(f"{key}.time_pos_embed.2", width, 4 * width)
        shapes[f"{key}.time_mixer.mix_factor"] = (1,)

    shapes.layer(f"{prefix}time_embed.0", embedding, width)
    shapes.layer(f"{prefix}time_embed.2", embedding, embedding)
    shapes.layer(f"{prefix}label_emb.0.0", embedding, vector_width)
    shapes.layer(f"{prefix}label_emb.0.2", embedding, embedding)
    for layer in unet_layers(spec):
        key, width_in, width_out = prefix + layer.key, layer.width_in, layer.width_out
        if layer.kind == RESIDUAL:
            residual(key, width_in, width_out)
        elif layer.kind == TRANSFORMER:
            transformer(key, width_out)
        elif layer.kind == HEAD:
            shapes.layer(f"{key}.0", width_in)
            shapes.layer(f"{key}.2", width_out, width_in, 3, 3)
        else:
            leaf = {STEM: "", DOWNSAMPLE: ".op", UPSAMPLE: ".conv"}[layer.kind]
            shapes.layer(key + leaf, width_out, width_in, 3, 3)


def _clip(shapes, prefix, spec):
    width = spec.width
    shapes[f"{prefix}class_embedding"] = (width,)
    patches = (spec.image_size // spec.patch_size) ** 2
    shapes[f"{prefix}positional_embedding"] = (patches + 1, width)
    shapes[f"{prefix}proj"] = (width, spec.embed_dim)
    shapes.layer(f"{prefix}conv1", width, 3, spec.patch_size, spec.patch_size, bias=False)
    for name in ("ln_pre", "ln_post"):
        shapes.layer(prefix + name, width)
    for i in range(spec.layers):
        block = f"{prefix}transformer.resblocks.{i}."
        shapes[f"{block}attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{block}attn.in_proj_bias"] = (3 * width,)
        shapes.layer(f"{block}attn.out_proj", width, width)
        for name in ("ln_1", "ln_2"):
            shapes.layer(block + name, width)
        shapes.layer(f"{block}mlp.c_fc", 4 * width, width)
        shapes.layer(f"{block}mlp.c_proj", width, 4 * width)


def _residual(shapes, key, before, after, temporal):
    shapes.layer(f"{key}.norm1", before)
    shapes.layer(f"{key}.conv1", after, before, 3, 3)
    shapes.layer(f"{key}.norm2", after)
    shapes.layer(f"{key}.conv2", after, after, 3, 3)
    if before != after:
        shapes.layer(f"{key}.nin_shortcut", after, before, 1, 1)
    if temporal:
        shapes[f"{key}.mix_factor"] = (1,)
        for norm, conv in (("in_layers.0", "in_layers.2"), ("out_layers.0", "out_layers.3")):
            shapes.layer(f"{key}.time_stack.{norm}", after)
            shapes.layer(f"{key}.time_stack.{conv}", after, after, 3, 1, 1)


def _middle(shapes, key, width, temporal):
    for name in ("block_1", "block_2"):
        _residual(shapes, f"{key}.{name}", width, width, temporal)
    shapes.layer(f"{key}.attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        shapes.layer(f"{key}.attn_1.{name}", width, width, 1, 1)


def _coder(shapes, prefix, layers, temporal=False):
    """Add the autoencoder's encoder or decoder, whose `Layer`s are given."""
    for layer in layers:
        key, width_in, width_out = prefix + layer.key, layer.width_in, layer.width_out
        if layer.kind == RESIDUAL:
            _residual(shapes, key, width_in, width_out, temporal)
        elif layer.kind == MIDDLE:
            _middle(shapes, key, width_out, temporal)
        else:
            if layer.kind == HEAD:
                shapes.layer(f"{prefix}norm_out", width_in)
            leaf = ".conv" if layer.kind in (DOWNSAMPLE, UPSAMPLE) else ""
            shapes.layer(key + leaf, width_out, width_in, 3, 3)
    if temporal:
        shapes.layer(f"{prefix}conv_out.time_mix_conv", 3, 3, 3, 1, 1)
