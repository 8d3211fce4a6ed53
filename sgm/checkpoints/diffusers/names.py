"""Maps published names to those of Hugging Face diffusers, by rules for any depth and width.

A published tensor is one tensor of a diffusers folder, or three of them: the joint projection of
CLIP's attention, in thirds. 1x1 convolutions of the autoencoder's attention are matrices there,
CLIP's last projection is transposed.
"""
import re
from typing import NamedTuple

import numpy as np

from sgm.checkpoints.original_keys import image_embedders

# Folders of a diffusers folder, and how their files are named.
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model",
         "image_encoder": "model"}
PARTS = tuple(STEMS)
MATRIX, TRANSPOSED, THIRD = "1x1 kernel as a matrix", "transposed", "third of the joint projection"


class Place(NamedTuple):
    """A tensor of a diffusers folder."""
    part: str                       # one of PARTS
    name: str
    how: str                        # "" for the published tensor itself, MATRIX, TRANSPOSED, THIRD
    third: int = 0                  # which third, 0 to 2


# Rules are (pattern, replacement), applied in order. Those of a residual block also hold for its
# part over frames.
_ENDS = (
    (r"^input_blocks\.0\.0\.", "conv_in."),
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^label_emb\.0\.0\.", "add_embedding.linear_1."),
    (r"^label_emb\.0\.2\.", "add_embedding.linear_2."),
    (r"^out\.0\.", "conv_norm_out."),
    (r"^out\.2\.", "conv_out."),
)
_RESIDUAL = (
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
_TRANSFORMER = (
    (r"^time_stack\.", "temporal_transformer_blocks."),
    (r"^time_pos_embed\.0\.", "time_pos_embed.linear_1."),
    (r"^time_pos_embed\.2\.", "time_pos_embed.linear_2."),
)
_VAE_ATTENTION = (
    (r"^norm\.", "group_norm."),
    (r"^([qkv])\.", r"to_\1."),
    (r"^proj_out\.", "to_out.0."),
)
_VAE_ENDS = (
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.conv_out\.time_mix_conv\.", ".time_conv_out."),
)
_CLIP = (
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


def _rename(key, rules):
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def places(key, spec):
    """Return where a diffusers folder of a `ModelSpec` has the published tensor `key`.

    It is a list of one Place, or of three. Raises ValueError for a key of a network that diffusers
    folders do not have.
    """
    clip, vae = image_embedders(spec)
    if key.startswith("model.diffusion_model."):
        name = _unet_name(key.removeprefix("model.diffusion_model."), spec.unet.num_res_blocks)
        return [Place("unet", name, "")]
    if key.startswith(clip + "open_clip.model.visual."):
        return _clip_places(key.removeprefix(clip + "open_clip.model.visual."))
    for prefix in (vae + "encoder.", "first_stage_model."):
        if key.startswith(prefix):
            matrix = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", key)
            name = _vae_name(key.removeprefix(prefix), spec.vae)
            return [Place("vae", name, MATRIX if matrix else "")]
    raise ValueError(f"{key}: found no such network, expected a published key of {spec.name}")


def _unet_name(key, depth):
    middle = re.fullmatch(r"middle_block\.(\d)\.(.+)", key)
    outer = re.fullmatch(r"(in|out)put_blocks\.(\d+)\.(\d)\.(.+)", key)
    if key.startswith("input_blocks.0.") or not (middle or outer):
        return _rename(key, _ENDS)
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
        return f"{block}.attentions.{place}.{_rename(rest, _TRANSFORMER)}"
    return f"{block}.resnets.{place}.{_rename(rest, _RESIDUAL)}"


def _vae_name(key, vae):
    """Return the name of a key of `encoder.`, `quant_conv.`, `decoder.` or `post_quant_conv.`.

    Only a temporal decoder's residual blocks have a part over frames, so only their other part is
    called spatial.
    """
    pattern = r"(encoder|decoder)\.(mid|down|up)\.(?:(\d)\.)?([a-z]+)[._]?(\d?)\.(.+)"
    match = re.fullmatch(pattern, key)
    if not match:
        return _rename(key, _VAE_ENDS)
    half, part, level, kind, place, rest = match.groups()
    if part == "mid":
        block, place = f"{half}.mid_block", int(place) - 1
    else:
        number = level if part == "down" else len(vae.ch_mult) - 1 - int(level)
        block = f"{half}.{part}_blocks.{number}"
    if kind == "attn":
        return f"{block}.attentions.{place}.{_rename(rest, _VAE_ATTENTION)}"
    if kind != "block":
        return f"{block}.{kind}rs.0.{rest}"
    rest = _rename(rest, _RESIDUAL)
    if half == "encoder" or vae.decoder == "image":
        rest = rest.removeprefix("spatial_res_block.")
    return f"{block}.resnets.{place}.{rest}"


def _clip_places(key):
    if key == "proj":
        return [Place("image_encoder", "visual_projection.weight", TRANSPOSED)]
    key = _rename(key, _CLIP)
    if match := re.fullmatch(r"(.+)\.attn\.in_proj_(weight|bias)", key):
        return [Place("image_encoder", f"{match[1]}.self_attn.{name}_proj.{match[2]}", THIRD, third)
                for third, name in enumerate("qkv")]
    return [Place("image_encoder", key, "")]


def shape_at(place, shape):
    """Return the shape that a published tensor of `shape` has at a Place."""
    if place.how == MATRIX:
        return tuple(shape[:2])
    if place.how == TRANSPOSED:
        return tuple(shape[::-1])
    return (shape[0] // 3, *shape[1:]) if place.how == THIRD else tuple(shape)


def to_place(array, place):
    """Return the tensor at a Place, a view of the published one (numpy or PyTorch)."""
    if place.how == MATRIX:
        return array[:, :, 0, 0]
    if place.how == TRANSPOSED:
        return array.T
    if place.how == THIRD:
        rows = array.shape[0] // 3
        return array[place.third * rows:(place.third + 1) * rows]
    return array


def from_places(arrays, found):
    """Return the published tensor, of the numpy arrays at its `places`."""
    how = found[0].how
    if how == MATRIX:
        return arrays[0][:, :, None, None]
    if how == TRANSPOSED:
        return arrays[0].T
    return np.concatenate(arrays) if how == THIRD else arrays[0]


def inverse(found):
    """Return what `from_places` does, for a report."""
    how = found[0].how
    return {MATRIX: "matrix as a 1x1 kernel", THIRD: "joint projection"}.get(how, how)
