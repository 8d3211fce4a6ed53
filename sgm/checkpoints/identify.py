"""Identifies the model of a file of weights by keys and shapes, and checks that it is complete."""
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Optional

from sgm.checkpoints.original_keys import CONDITIONER, FIRST_STAGE, UNET, is_unused
from sgm.checkpoints.store import CheckpointError, TensorStore
from sgm.common.errors import argument
from sgm.config.model import ModelSpec
from sgm.config.model_files import load_spec
from sgm.config.yaml_reader import known_configs

VECTOR_KEY = UNET + "label_emb.0.0.weight"      # (4 * channels, width of the vector condition)
INPUT_KEY = UNET + "input_blocks.0.0.weight"    # (channels, 8, 3, 3)
NO_FLOAT = "expected a floating type"
SHOWN = 8                                       # names of each kind in an error


class Fingerprint(NamedTuple):
    """The keys and shapes that tell models apart; None for parts that a checkpoint lacks."""
    decoder: Optional[str]          # "temporal" or "image"
    post_quant_conv: bool           # the first stage has 1x1 convolutions (svd_image_decoder)
    vector_width: Optional[int]     # columns of the vector condition
    vae_embedder: Optional[int]     # N of the conditioner.embedders.N with the autoencoder
    channels: Optional[int]         # width of the UNet's first level
    inputs: Optional[int]           # channels of its input: noisy and condition latent


def fingerprint_of(store: TensorStore) -> Fingerprint:
    """Return the Fingerprint of a TensorStore under the published names, without reading data.

    Raises CheckpointError for one file of a diffusers folder.
    """
    keys = list(store)
    if not any(key.startswith((UNET, FIRST_STAGE, CONDITIONER)) for key in keys):
        diffusers = r"(^|\.)(down_blocks|mid_block|vision_model)\."
        other = next((key for key in keys if re.search(diffusers, key)), None)
        if other:
            raise CheckpointError(
                f"{store.path}: {other}: found the names of a part of a diffusers folder, expected"
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
        vector_width=_size(store, VECTOR_KEY, 1),
        vae_embedder=int(embedder[1]) if embedder else None,
        channels=_size(store, INPUT_KEY, 0),
        inputs=_size(store, INPUT_KEY, 1))


def _size(store, key, axis):
    shape = store.shape(key) if key in store else ()
    return shape[axis] if len(shape) > axis else None


def adapt_spec(spec: ModelSpec, store: TensorStore) -> ModelSpec:
    """Return `spec` with the decoder that a TensorStore shows, with or without 1x1 convolutions.

    Raises CheckpointError when the weights plainly are those of another model, naming the one they
    look like.
    """
    fingerprint = fingerprint_of(store)
    embedder = spec.condition.embedders.index("cond_frames")
    for found, expected, where in (
            (fingerprint.vector_width, sum(spec.vector_widths.values()),
             f"{VECTOR_KEY}: found {{}} columns"),
            (fingerprint.channels, spec.unet.model_channels, f"{INPUT_KEY}: found {{}} channels"),
            (fingerprint.inputs, spec.unet.in_channels, f"{INPUT_KEY}: found {{}} input channels"),
            (fingerprint.vae_embedder, embedder,
             "found the autoencoder at conditioner.embedders.{}")):
        if found is not None and found != expected:
            raise CheckpointError(
                f"{store.path}: {where.format(found)}, expected {expected} for {spec.name};"
                f" {_looks_like(fingerprint)}")
    return with_decoder(spec, fingerprint)


def with_decoder(spec: ModelSpec, fingerprint: Fingerprint) -> ModelSpec:
    """Return `spec` with the decoder of a Fingerprint, if that has one."""
    if fingerprint.decoder is None:
        return spec
    return replace(spec, vae=replace(spec.vae, decoder=fingerprint.decoder,
                                     post_quant_conv=fingerprint.post_quant_conv))


def identify(fingerprint: Fingerprint, path: Path, num_frames: int | None = None) -> ModelSpec:
    """Return the ModelSpec of the known configuration that a Fingerprint fits, without its decoder.

    svd and svd_xt have the same keys and shapes: `num_frames` tells them apart, else the file name
    in `path`, else it is svd. Raises CheckpointError when none fits.
    """
    specs = [load_spec(name) for name in known_configs("sampling")]
    wanted = fingerprint.vector_width, fingerprint.channels, fingerprint.inputs
    fitting = [spec for spec in specs if wanted == (
        sum(spec.vector_widths.values()), spec.unet.model_channels, spec.unet.in_channels)]
    if not fitting:
        width = fingerprint.vector_width
        condition = f"with a vector condition of {width}" if width else "without a vector condition"
        found = f"found a UNet of {fingerprint.channels} channels {condition}"
        remedy = f"it is another model: pass its {_config()}"
        if fingerprint.channels is None:
            found, remedy = "found no UNet", f"if it is a part of one of them, pass its {_config()}"
        raise CheckpointError(f"{path}: {found}, expected that of"
                              f" {', '.join(spec.name for spec in specs)}; {remedy}")

    def likeness(spec):
        return spec.num_frames == num_frames, len(spec.name) * (spec.name in path.name)
    return max(fitting, key=likeness)


def _config():
    return argument("model", "--config")


def _looks_like(fingerprint):
    """Return the remedy for another model's checkpoint: which of ours its vector condition fits."""
    specs = [load_spec(name) for name in known_configs("sampling")]
    alike = [spec for spec in specs
             if sum(spec.vector_widths.values()) == fingerprint.vector_width]
    if not alike:
        return f"it is another model: pass its {_config()}"
    same = [spec for spec in alike if spec.unet.model_channels == fingerprint.channels]
    names = " or ".join(spec.name for spec in same or alike)
    if not same:
        return f"it looks like {names} of other widths: pass its {_config()}"
    return f"it looks like {names}: pass {_config()} {same[0].name}"


def misfits_of(store: TensorStore, shapes: dict, prefix: str = "") -> tuple[list, ...]:
    """Compare a TensorStore with tensors of these ``{key: shape}`` of a floating type.

    Returns four lists of keys: missing, misshapen (with what was found), left over, and skipped
    because nothing uses them. Keys without `prefix` are ignored.
    """
    missing, misshapen, extra, unused = [], [], [], []
    for key, shape in shapes.items():
        if key not in store:
            missing.append(key)
        elif store.shape(key) != tuple(shape):
            misshapen.append(f"{key} (found {store.shape(key)}, expected {tuple(shape)})")
        elif "F" not in store.dtype(key):
            misshapen.append(f"{key} (found {store.dtype(key)}, {NO_FLOAT})")
    for key in store:
        if key.startswith(prefix) and key not in shapes:
            (unused if is_unused(key) else extra).append(key)
    return missing, misshapen, extra, unused


def check_fit(store: TensorStore, shapes: dict, prefix: str = "") -> list[str]:
    """Raise CheckpointError unless `misfits_of` finds none; return the keys that nothing uses."""
    missing, misshapen, extra, unused = misfits_of(store, shapes, prefix)
    if missing or misshapen or extra:
        remedy = misfit_remedy(missing, misshapen, extra, _looks_like(fingerprint_of(store)),
                               "put it together with a file that has them: tools/convert.py"
                               f" {store.path.name} whole.safetensors --to safetensors --base FILE")
        raise CheckpointError(f"{store.path}: does not fit the model:"
                              f" {misfit_message(missing, misshapen, extra)}; {remedy}")
    return unused


def misfit_message(missing: list, misfits: list, extra: list) -> str:
    """Return one line with the first few of the names missing, misshapen and left over (lists)."""
    parts = []
    for names, what in ((missing, "keys missing"), (misfits, "misshapen"), (extra, "left over")):
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
    return "; ".join(parts)


def misfit_remedy(missing, misfits, extra, another, completed):
    """Return the remedy for names missing, misshapen and left over (lists, not all empty).

    another: the remedy for another model's weights; completed: that for a part of a model.
    """
    if any(NO_FLOAT in name for name in misfits):
        return "they are quantized: use the model's file in full or half precision"
    if misfits or missing and extra:
        return another
    if missing:
        return completed
    return ("what is left over has no place in this model: it is a larger one (pass its"
            f" {_config()}), or something else was saved with it (save it without that)")
