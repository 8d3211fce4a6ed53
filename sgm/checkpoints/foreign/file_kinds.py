"""Says what a file is that is not a whole model, by its keys: a LoRA, another network, a part."""
import re

from sgm.checkpoints.original_keys import UNET
from sgm.checkpoints.store import CheckpointError
from sgm.common.errors import argument

TRAINED_HERE, ELSEWHERE = "a LoRA of train.py", "a LoRA of another program"
_FUSE = ("fuse it into its model with diffusers (pipe.load_lora_weights, pipe.fuse_lora,"
         " pipe.save_pretrained), and give that folder")
_MERGE = "merge it with PEFT (merge_and_unload) and save the result"
_LORA = re.compile(r"(^|[._])(lora_(A|B|down|up|embedding_A|embedding_B|magnitude_vector)"
                   r"|lora\.(down|up)|to_\w+_lora\.(down|up)|hada_w\d\w*|lokr_w\d\w*|dora_scale"
                   r"|b?oft_(blocks|diag|R))([._]|$)|\.diff(_b)?$")
_KOHYA = re.compile(r"^(lycoris|(lora|oft)_(unet|te\d?|transformer|clip))_")
_PEFT = re.compile(r"[._](lora_(embedding_)?[AB]|lora_magnitude_vector|b?oft_R)([._]|$)")
# What quantizers save beside their weights.
_QUANTIZED = re.compile(r"\.(absmax|quant_map|quant_state\.\w+|SCB|qweight|qzeros|scale_weight"
                        r"|weight_scale)$|^scaled_fp8$")
_BASE_LAYER = re.compile(r"\.base_layer\.")
# (pattern of a key that only such a file has, what it is)
_OTHERS = tuple((re.compile(pattern), what) for pattern, what in (
    (r"(^|\.)(control_model|controlnet_\w+|zero_convs|input_hint_block)\.", "a ControlNet"),
    (r"(^|\.)motion_modules\.", "a motion module of AnimateDiff"),
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"^(string_to_param\.|emb_params$|clip_[lg]$)", "an embedding of textual inversion"),
    (r"^cc_projection\.", "Zero-1-to-3"),
    (r"^conditioner\.embedders\.\d\.(transformer\.text_model|model\.transformer)\.",
     "Stable Diffusion XL"),
    (r"^cond_stage_model\.", "Stable Diffusion 1 or 2"),
    (r"^(model\.|model\.diffusion_model\.)?(double_blocks|single_blocks|joint_blocks"
     r"|transformer_blocks)\.\d", "a diffusion transformer, such as Flux"),
    (r"(^|\.)text_model\.", "a text encoder")))
# The same for files without any key of SVD or SV3D.
_PARTS = tuple((re.compile(pattern), what) for pattern, what in (
    (r"^(encoder|decoder)\.(conv_in|mid|down|up)\.", "an autoencoder alone"),
    (r"^(model\.)?visual\.", "an image encoder of OpenCLIP alone")))
_DIFFUSERS = re.compile(r"(^|\.)(down_blocks|up_blocks|mid_block|vision_model)\.")


def lora_kind(keys):
    """Return what kind of LoRA a file with these keys is, as a text, or None."""
    if not any(map(_LORA.search, keys)):
        return None
    ours = [key for key in keys if key.startswith("model.diffusion_model.")]
    if ours:
        is_train_py = any(re.search(r"\.lora_[AB]\.weight$", key) for key in ours)
        return TRAINED_HERE if is_train_py else ELSEWHERE
    if any(map(_KOHYA.match, keys)):
        return "a LoRA of kohya's scripts"
    if any(re.search(r"[._]lora\.(down|up)|_lora\.", key) for key in keys):
        return "a LoRA of an older diffusers"
    return "a LoRA of PEFT" if any(map(_PEFT.search, keys)) else ELSEWHERE


def refuse_lora(store, as_lora=False):
    """Raise CheckpointError for a LoRA in place of a model, or one that is not merged into it.

    as_lora: a LoRA is wanted, but one of train.py, which notes its alpha in the metadata.
    """
    keys = list(store)
    kind = lora_kind(keys)
    if as_lora and (kind in (None, TRAINED_HERE) or "lora_alpha" in store.metadata):
        return
    wrapped = next(filter(_BASE_LAYER.search, keys), None)
    layers = list(filter(_LORA.search, keys))
    if wrapped or 0 < len(layers) < len(keys) // 2:
        raise CheckpointError(f"{store.path}: {wrapped or layers[0]}: found a model with the layers"
                              f" of a LoRA in it, not merged, expected plain layers; {_MERGE}")
    if kind is None:
        return
    expected = "one of train.py" if as_lora else "a whole model"
    remedy = _FUSE
    if kind == ELSEWHERE:
        remedy = "fuse it into its model with that program, and give the whole model"
    if kind == TRAINED_HERE:
        remedy = f"give the model that it was trained on, and this file with {argument('lora')}"
    raise CheckpointError(f"{store.path}: {layers[0]}: found {kind}, expected {expected}; {remedy}")


def refuse_others(store, has_parts):
    """Raise CheckpointError naming what a file is, if its keys are those of another known kind.

    has_parts: there are keys of SVD or SV3D in it. What `sgm.checkpoints.identify` names is left to
    it: a part of a diffusers folder.
    """
    keys = list(store)
    kinds = _OTHERS
    is_unknown = not has_parts and not any(map(_DIFFUSERS.search, keys))
    if is_unknown:
        kinds += _PARTS
    quantized = next(filter(_QUANTIZED.search, keys), None)
    if quantized:
        raise CheckpointError(f"{store.path}: {quantized}: found quantized weights, expected plain"
                              " ones; use the model's file in full or half precision")
    for pattern, what in kinds:
        key = next(filter(pattern.search, keys), None)
        if key:
            raise CheckpointError(f"{store.path}: {key}: found {what}, expected a whole model of"
                                  " SVD or SV3D; give the file of one")
    if is_unknown:
        first = keys[0] if keys else "no tensors"
        raise CheckpointError(f"{store.path}: {first}: found none of the names of SVD or SV3D,"
                              f" expected such as {UNET}...; it is another network: give the file"
                              " of one of these")
