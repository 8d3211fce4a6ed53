"""Which model a file of weights is of, told by its keys and shapes, and whether it has all that the model needs."""
import re
from dataclasses import replace
from typing import NamedTuple, Optional

from sgm.checkpoints.original_keys import CONDITIONER, FIRST_STAGE, UNET, is_unused
from sgm.checkpoints.store import CheckpointError
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import known_configs

VECTOR_KEY = UNET + "label_emb.0.0.weight"      # (4 * channels, width of the vector condition)
INPUT_KEY = UNET + "input_blocks.0.0.weight"    # (channels, 8, 3, 3)
SHOWN = 8                                       # names of a kind in an error


class Fingerprint(NamedTuple):
    """What a checkpoint's keys and shapes say of its model; None where it does not hold that part."""
    decoder: Optional[str]                      # "temporal" or "image"
    post_quant_conv: bool                       # the first stage has its 1x1 convolutions (svd_image_decoder)
    has_encoder: bool                           # the first stage has an encoder of its own
    vector_width: Optional[int]                 # columns of the vector condition
    vae_embedder: Optional[int]                 # N of the conditioner.embedders.N that is the autoencoder
    channels: Optional[int]                     # of the UNet's first level


def layout_of(store):
    """The Layout of an open Checkpoint or other TensorStore under the published names; reads no data.

    Raises CheckpointError for one file of a diffusers folder.
    """
    keys = list(store)
    if not any(key.startswith((UNET, FIRST_STAGE, CONDITIONER)) for key in keys):
        other = next((key for key in keys if re.search(r"(^|\.)(down_blocks|mid_block|vision_model)\.", key)), None)
        if other:
            raise CheckpointError(f"{store.path}: {other}: found the names of a part of a diffusers folder, expected"
                                  f" {UNET}...; give the folder that has unet, vae and image_encoder in it")
    decoder = None
    if any(key.startswith(FIRST_STAGE + "decoder.") for key in keys):
        temporal = FIRST_STAGE + "decoder.mid.block_1.time_stack."
        decoder = "temporal" if any(key.startswith(temporal) for key in keys) else "image"
    embedder = next((re.match(r"conditioner\.embedders\.(\d{1,3})\.encoder\.", key) for key in keys
                     if ".encoder.quant_conv." in key), None)
    return Fingerprint(
        decoder=decoder,
        post_quant_conv=FIRST_STAGE + "post_quant_conv.weight" in store,
        has_encoder=any(key.startswith(FIRST_STAGE + "encoder.") for key in keys),
        vector_width=_size(store, VECTOR_KEY, 1),
        vae_embedder=int(embedder[1]) if embedder else None,
        channels=_size(store, INPUT_KEY, 0))


def _size(store, key, axis):
    shape = store.shape(key) if key in store else ()
    return shape[axis] if len(shape) > axis else None


def adapt_spec(spec, store):
    """`spec` with what a TensorStore shows: its decoder, and whether that has 1x1 convolutions.

    Raises CheckpointError when the weights plainly are another model's, naming the one they look like.
    """
    layout = layout_of(store)
    for found, expected, where in (
            (layout.vector_width, sum(spec.vector_widths.values()), f"{VECTOR_KEY}: found {{}} columns"),
            (layout.channels, spec.unet.model_channels, f"{INPUT_KEY}: found {{}} channels"),
            (layout.vae_embedder, spec.condition.embedders.index("cond_frames"),
             "found the autoencoder at conditioner.embedders.{}")):
        if found is not None and found != expected:
            raise CheckpointError(f"{store.path}: {where.format(found)}, expected {expected} for {spec.name};"
                                  f" {_looks_like(layout)}")
    return with_decoder(spec, layout)


def with_decoder(spec, layout):
    """`spec` with a Layout's decoder, if it has one."""
    if layout.decoder is None:
        return spec
    return replace(spec, vae=replace(spec.vae, decoder=layout.decoder, post_quant_conv=layout.post_quant_conv))


def recognise(layout, path, num_frames=None):
    """The ModelSpec of that known configuration which a Layout is of, without its decoder. Raises CheckpointError.

    svd and svd_xt have the same keys and shapes: `num_frames` tells them apart, else the name at `path`, else it is svd.
    """
    specs = [load_spec(name) for name in known_configs("sampling")]
    fitting = [spec for spec in specs if (sum(spec.vector_widths.values()), spec.unet.model_channels)
               == (layout.vector_width, layout.channels)]
    if not fitting:
        found = "found no UNet" if layout.channels is None else (
            f"found a UNet of {layout.channels} channels with a vector condition of {layout.vector_width}")
        raise CheckpointError(f"{path}: {found}, expected that of {', '.join(spec.name for spec in specs)}; is of"
                              " another model: pass its --config")

    def likeness(spec):
        return spec.num_frames == num_frames, len(spec.name) * (spec.name in path.name)
    return max(fitting, key=likeness)


def _looks_like(layout):
    """The remedy for a checkpoint of another model: which of ours it looks like, by its vector condition."""
    specs = [load_spec(name) for name in known_configs("sampling")]
    alike = [spec for spec in specs if sum(spec.vector_widths.values()) == layout.vector_width]
    if not alike:
        return "is of another model: pass its --config"
    same = [spec for spec in alike if spec.unet.model_channels == layout.channels]
    names = " or ".join(spec.name for spec in same or alike)
    if not same:
        return f"looks like {names} of other widths: pass its --config"
    return f"looks like {names}: pass --config configs/{same[0].name}.yaml"


def misfits_of(store, shapes, prefix=""):
    """How a TensorStore differs from tensors of these ``{key: shape}`` of a floating type: lists of keys.

    -> missing, misshapen (with what was found), left over, and passed over because nothing uses them. Keys that do not
    begin with `prefix` are no one's.
    """
    missing, misshapen, extra, unused = [], [], [], []
    for key, shape in shapes.items():
        if key not in store:
            missing.append(key)
        elif store.shape(key) != tuple(shape):
            misshapen.append(f"{key} (found {store.shape(key)}, expected {tuple(shape)})")
        elif "F" not in store.dtype(key):
            misshapen.append(f"{key} (found {store.dtype(key)}, expected a floating type)")
    for key in store:
        if key.startswith(prefix) and key not in shapes:
            (unused if is_unused(key) else extra).append(key)
    return missing, misshapen, extra, unused


def check_fit(store, shapes, prefix=""):
    """Raise CheckpointError unless `misfits_of` finds none; -> the keys that nothing uses."""
    missing, misshapen, extra, unused = misfits_of(store, shapes, prefix)
    if missing or misshapen or extra:
        raise CheckpointError(f"{store.path}: does not fit the model: {misfit_message(missing, misshapen, extra)}; if the"
                              f" file is whole, it {_looks_like(layout_of(store))}")
    return unused


def misfit_message(missing, misfits, extra):
    """What is missing, misshapen and left over (lists of names) in a line, the first few of each."""
    parts = []
    for names, what in ((missing, "keys missing"), (misfits, "misshapen"), (extra, "left over")):
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
    return "; ".join(parts)
