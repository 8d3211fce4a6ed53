"""The published names: which keys and shapes a model has, and which of them nothing uses.

Our parameters have these names. Everything is derived from the `ModelSpec`; tests hold it against lists taken from the
original code.
"""
import re

UNET, FIRST_STAGE, CONDITIONER = "model.diffusion_model.", "first_stage_model.", "conditioner.embedders."
TEXT_REMNANTS = ("ln_final.weight", "ln_final.bias", "logit_scale", "positional_embedding", "text_projection",
                 "token_embedding.weight")
# Published keys that nothing reads: what is left of CLIP's text tower, the decoder inside the conditioner's
# autoencoder, and the first stage's own encoder (the conditioner's is the one that is used).
_UNUSED = re.compile(
    rf"conditioner\.embedders\.\d+\.open_clip\.model\.({'|'.join(map(re.escape, TEXT_REMNANTS))})$"
    r"|conditioner\.embedders\.\d+\.encoder\.(decoder|post_quant_conv)\."
    r"|first_stage_model\.(encoder|quant_conv)\.")


def is_unused(key):
    """Whether a published key has no use in sampling or training."""
    return _UNUSED.match(key) is not None


# --- keys and shapes -------------------------------------------------------------------------------------------

class _Shapes(dict):
    """{key: shape} that grows layer by layer."""

    def layer(self, key, *shape, bias=True):
        """A linear layer (out, in), convolution (out, in, ...) or norm (width)."""
        self[key + ".weight"] = shape
        if bias:
            self[key + ".bias"] = shape[:1]


def image_embedders(spec):
    """The prefixes under which such a model has CLIP and the autoencoder: their place among the embedders differs."""
    return tuple(f"{CONDITIONER}{spec.condition.embedders.index(name)}."
                 for name in ("cond_frames_without_noise", "cond_frames"))


def used_shapes(spec):
    """{published key: shape} of the parameters of an Engine of this spec."""
    shapes, (clip, vae) = _Shapes(), image_embedders(spec)
    _unet(shapes, UNET, spec.unet, sum(spec.vector_widths.values()))
    _clip(shapes, clip + "open_clip.model.visual.", spec.clip)
    _encoder(shapes, vae + "encoder.encoder.", spec.vae)
    z = spec.vae.z_channels
    shapes.layer(vae + "encoder.quant_conv", 2 * z, 2 * z, 1, 1)
    _decoder(shapes, FIRST_STAGE + "decoder.", spec.vae, spec.vae.decoder == "temporal")
    if spec.vae.post_quant_conv:
        shapes.layer(FIRST_STAGE + "quant_conv", 2 * z, 2 * z, 1, 1)
        shapes.layer(FIRST_STAGE + "post_quant_conv", z, z, 1, 1)
    return shapes


def unused_keys(spec):
    """The published keys of such a model that nothing reads, beyond `used_shapes`; a list."""
    shapes, (clip, vae) = _Shapes(), image_embedders(spec)
    _decoder(shapes, vae + "encoder.decoder.", spec.vae, temporal=False)
    shapes.layer(vae + "encoder.post_quant_conv", 1)
    if not spec.is_orbit:                       # SV3D was released without it
        _encoder(shapes, FIRST_STAGE + "encoder.", spec.vae)
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
        for block, norms, forwards in ((".transformer_blocks.0", ("norm1", "norm2", "norm3"), ("ff",)),
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
    shapes.layer(f"{prefix}input_blocks.0.0", width, spec.in_channels, 3, 3)
    now, skips, number = width, [width], 1
    last = len(spec.channel_mult) - 1
    for level, multiple in enumerate(spec.channel_mult):
        for _ in range(spec.num_res_blocks):
            residual(f"{prefix}input_blocks.{number}.0", now, multiple * width)
            now = multiple * width
            if 2 ** level in spec.attention_resolutions:
                transformer(f"{prefix}input_blocks.{number}.1", now)
            skips.append(now)
            number += 1
        if level < last:
            shapes.layer(f"{prefix}input_blocks.{number}.0.op", now, now, 3, 3)
            skips.append(now)
            number += 1
    residual(f"{prefix}middle_block.0", now, now)
    transformer(f"{prefix}middle_block.1", now)
    residual(f"{prefix}middle_block.2", now, now)
    number = 0
    for level, multiple in reversed(list(enumerate(spec.channel_mult))):
        attends = 2 ** level in spec.attention_resolutions
        for i in range(spec.num_res_blocks + 1):
            residual(f"{prefix}output_blocks.{number}.0", now + skips.pop(), multiple * width)
            now = multiple * width
            if attends:
                transformer(f"{prefix}output_blocks.{number}.1", now)
            if level and i == spec.num_res_blocks:
                shapes.layer(f"{prefix}output_blocks.{number}.{1 + attends}.conv", now, now, 3, 3)
            number += 1
    shapes.layer(f"{prefix}out.0", now)
    shapes.layer(f"{prefix}out.2", spec.out_channels, now, 3, 3)


def _clip(shapes, prefix, spec):
    width = spec.width
    shapes[f"{prefix}class_embedding"] = (width,)
    shapes[f"{prefix}positional_embedding"] = ((spec.image_size // spec.patch_size) ** 2 + 1, width)
    shapes[f"{prefix}proj"] = (width, spec.embed_dim)
    shapes.layer(f"{prefix}conv1", width, 3, spec.patch_size, spec.patch_size, bias=False)
    for name in ("ln_pre", "ln_post"):
        shapes.layer(prefix + name, width)
    for i in range(spec.layers):
        block = f"{prefix}transformer.resblocks.{i}."
        shapes[f"{block}attn.in_proj_weight"], shapes[f"{block}attn.in_proj_bias"] = (3 * width, width), (3 * width,)
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


def _middle(shapes, prefix, width, temporal):
    for name in ("block_1", "block_2"):
        _residual(shapes, f"{prefix}mid.{name}", width, width, temporal)
    shapes.layer(f"{prefix}mid.attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        shapes.layer(f"{prefix}mid.attn_1.{name}", width, width, 1, 1)


def _encoder(shapes, prefix, spec):
    shapes.layer(f"{prefix}conv_in", spec.ch, 3, 3, 3)
    now = spec.ch
    for level, multiple in enumerate(spec.ch_mult):
        for i in range(spec.num_res_blocks):
            _residual(shapes, f"{prefix}down.{level}.block.{i}", now, multiple * spec.ch, False)
            now = multiple * spec.ch
        if level < len(spec.ch_mult) - 1:
            shapes.layer(f"{prefix}down.{level}.downsample.conv", now, now, 3, 3)
    _middle(shapes, prefix, now, False)
    shapes.layer(f"{prefix}norm_out", now)
    shapes.layer(f"{prefix}conv_out", 2 * spec.z_channels, now, 3, 3)


def _decoder(shapes, prefix, spec, temporal):
    now = spec.ch * spec.ch_mult[-1]
    shapes.layer(f"{prefix}conv_in", now, spec.z_channels, 3, 3)
    _middle(shapes, prefix, now, temporal)
    for level, multiple in reversed(list(enumerate(spec.ch_mult))):
        for i in range(spec.num_res_blocks + 1):
            _residual(shapes, f"{prefix}up.{level}.block.{i}", now, multiple * spec.ch, temporal)
            now = multiple * spec.ch
        if level:
            shapes.layer(f"{prefix}up.{level}.upsample.conv", now, now, 3, 3)
    shapes.layer(f"{prefix}norm_out", now)
    shapes.layer(f"{prefix}conv_out", 3, now, 3, 3)
    if temporal:
        shapes.layer(f"{prefix}conv_out.time_mix_conv", 3, 3, 3, 1, 1)
