"""Published keys -> diffusers' and transformers' keys, for networks of any depth and width."""
import re

# Rules are (pattern, replacement), applied in order. Those of a residual block also hold for its part over frames.
ENDS = (
    (r"^input_blocks\.0\.0\.", "conv_in."),
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^label_emb\.0\.0\.", "add_embedding.linear_1."),
    (r"^label_emb\.0\.2\.", "add_embedding.linear_2."),
    (r"^out\.0\.", "conv_norm_out."),
    (r"^out\.2\.", "conv_out."),
)
RESNET = (
    (r"^time_stack\.", "temporal_res_block."),
    (r"^mix_factor$", "time_mixer.mix_factor"),
    (r"^(?!temporal_res_block|time_mixer)", "spatial_res_block."),
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.(skip_connection|nin_shortcut)\.", ".conv_shortcut."),
)
ATTENTION = (
    (r"^time_stack\.", "temporal_transformer_blocks."),
    (r"^time_pos_embed\.0\.", "time_pos_embed.linear_1."),
    (r"^time_pos_embed\.2\.", "time_pos_embed.linear_2."),
)
VAE_ATTENTION = (
    (r"^norm\.", "group_norm."),
    (r"^([qkv])\.", r"to_\1."),
    (r"^proj_out\.", "to_out.0."),
)
VAE_ENDS = (
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.conv_out\.time_mix_conv\.", ".time_conv_out."),
)
CLIP = (
    (r"^class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^ln_post\.", "vision_model.post_layernorm."),
    (r"^transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
)


def rename(key, rules):
    """`key` after every rule."""
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def unet_key(key, depth):
    """A key of `model.diffusion_model`, without that prefix; depth: residual blocks of a level."""
    middle = re.fullmatch(r"middle_block\.(\d)\.(.+)", key)
    outer = re.fullmatch(r"(in|out)put_blocks\.(\d+)\.(\d)\.(.+)", key)
    if key.startswith("input_blocks.0.") or not (middle or outer):
        return rename(key, ENDS)
    if middle:
        layer, rest = int(middle[1]), middle[2]
        block, place, attends = "mid_block", layer // 2, layer == 1
    else:
        side, number, layer, rest = outer.groups()
        level, place = divmod(int(number) - (side == "in"), depth + 1)
        block, attends = f"{'down' if side == 'in' else 'up'}_blocks.{level}", layer == "1"
        if rest.startswith("op."):
            return f"{block}.downsamplers.0.conv.{rest[3:]}"
        if rest.startswith("conv."):
            return f"{block}.upsamplers.0.{rest}"
    if attends:
        return f"{block}.attentions.{place}.{rename(rest, ATTENTION)}"
    return f"{block}.resnets.{place}.{rename(rest, RESNET)}"


def vae_key(key, levels):
    """A key below the autoencoder: `encoder.`, `quant_conv.` or `decoder.`; levels: its resolutions.

    Only the decoder's residual blocks have a part over frames.
    """
    match = re.fullmatch(r"(encoder|decoder)\.(mid|down|up)\.(?:(\d)\.)?([a-z]+)[._]?(\d?)\.(.+)", key)
    if not match:
        return rename(key, VAE_ENDS)
    half, part, level, kind, place, rest = match.groups()
    if part == "mid":
        block, place = f"{half}.mid_block", int(place) - 1
    else:
        block = f"{half}.{part}_blocks.{level if part == 'down' else levels - 1 - int(level)}"
    if kind == "attn":
        return f"{block}.attentions.{place}.{rename(rest, VAE_ATTENTION)}"
    if kind != "block":
        return f"{block}.{kind}rs.0.{rest}"
    rest = rename(rest, RESNET)
    return f"{block}.resnets.{place}.{rest.removeprefix('spatial_res_block.') if half == 'encoder' else rest}"


def tensors(spec, keys):
    """{published key: [(key of the other side, how)]} of the keys of a network. spec: `sgm.specs.ModelSpec`.

    how: "" for the array itself, "matrix" for a 1x1 kernel without its two last axes, "transposed", or the number of
    a third of a joint projection.
    """
    found = {}
    for key in keys:
        if match := re.fullmatch(r"model\.diffusion_model\.(.+)", key):
            found[key] = [(unet_key(match[1], spec.unet.num_res_blocks), "")]
        elif match := re.fullmatch(r"conditioner\.embedders\.\d+\.open_clip\.model\.visual\.(.+)", key):
            found[key] = _clip(match[1])
        elif match := re.fullmatch(r"(?:conditioner\.embedders\.\d+\.encoder|first_stage_model)\.(.+)", key):
            matrix = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", key)
            found[key] = [(vae_key(match[1], len(spec.vae.ch_mult)), "matrix" if matrix else "")]
        else:
            raise ValueError(f"{key}: found no such network, expected a published key")
    return found


def _clip(key):
    if key == "proj":
        return [("visual_projection.weight", "transposed")]
    key = rename(key, CLIP)
    if match := re.fullmatch(r"(.+)\.attn\.in_proj_(weight|bias)", key):
        return [(f"{match[1]}.self_attn.{name}_proj.{match[2]}", third) for third, name in enumerate("qkv")]
    return [(key, "")]


def convert(array, how):
    """The other side's tensor out of an array (numpy or PyTorch); a view."""
    if how == "matrix":
        return array[:, :, 0, 0]
    if how == "transposed":
        return array.T
    if how == "":
        return array
    third = array.shape[0] // 3
    return array[how * third:(how + 1) * third]
