"""Opens a Hugging Face diffusers folder as one TensorStore under the published names.

unet, vae and image_encoder (any of them may be missing) are each one .safetensors file or shards
named by an index, in full precision or else in the variant that is there (``*.fp16.safetensors``).
The UNet's moving average is in unet_ema. Pickles (.bin) are never opened.
"""
import json
import logging
import re
from functools import partial
from pathlib import Path

import numpy as np

from sgm.checkpoints.diffusers.config_files import BEYOND_SHAPES, NORM_GROUPS, config_files
from sgm.checkpoints.diffusers.names import PARTS, STEMS, from_places, inverse, places, shape_at
from sgm.checkpoints.dtypes import cast
from sgm.checkpoints.foreign.file_kinds import refuse_lora
from sgm.checkpoints.foreign.wrapped_keys import AVERAGE, is_harmless, plain_key
from sgm.checkpoints.identify import (
    NO_FLOAT,
    Fingerprint,
    fingerprint_of,
    identify,
    misfit_message,
    misfit_remedy,
    misfits_of,
    with_decoder,
)
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.original_keys import unused_keys, used_shapes
from sgm.checkpoints.store import CheckpointError, LazyTensor, View, passthrough
from sgm.common.errors import argument
from sgm.common.files import check_file
from sgm.config.model import GROUPS

MAX_JSON = 8 << 20
# A buffer that old versions of transformers wrote.
_BUFFERS = {"vision_model.embeddings.position_ids"}
# The names that the attention of an AutoencoderKL had before diffusers 0.15.
_OLD_ATTENTION = re.compile(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.(?=weight$|bias$)")
_NEW_ATTENTION = {"query": "to_q.", "key": "to_k.", "value": "to_v.", "proj_attn": "to_out.0."}
EMA, NON_EMA = "unet_ema", "non_ema"
log = logging.getLogger("sgm")


def open_folder(path, spec=None, base=None, ema=False):
    """Return (View under the published names, ModelSpec with the decoder that the folder has).

    spec: the model; None identifies it. base: a TensorStore under the published names, from which
    comes what the folder lacks and what nothing uses. ema: take the UNet's moving average. Raises
    CheckpointError naming what is missing from both, left over, or misshapen, and a value of a
    config.json that is another model's.
    """
    path = Path(path)
    parts, configs = _open_parts(path, ema)
    fingerprint = _fingerprint(parts, base)
    num_frames = configs.get("unet", {}).get("num_frames")
    spec = with_decoder(spec or identify(fingerprint, path, num_frames), fingerprint)
    _compare_configs(path, spec, configs)
    # Every published tensor from its places, or from `base`.
    rows, missing, misfits, used, shapes = {}, [], [], set(), used_shapes(spec)
    for key, shape in shapes.items():
        found = places(key, spec)
        absent = [f"{place.part}: {place.name}" for place in found
                  if place.name not in parts.get(place.part, ())]
        if absent and not (base is not None and key in base):
            missing += absent
        elif not absent:
            sources = tuple((parts[place.part][place.name], place.name) for place in found)
            misfits += _misfits(sources, found, shape)
            dtypes = [store.dtype(name) for store, name in sources]
            make = partial(from_places, found=found) if found[0].how else None
            if len(set(dtypes)) > 1:
                make, dtypes = partial(_mixed, found=found, dtypes=dtypes), ["F32"]
            rows[key] = LazyTensor(sources, make, inverse(found), dtypes[0], tuple(shape))
            used.update((place.part, place.name) for place in found)
    if base is not None:
        rows.update(fill_from_base(base, rows, spec))
    # Nothing missing, misshapen or left over.
    view = View(path, "diffusers", rows, {AVERAGE: "taken"} if ema else {})
    misfits += misfits_of(view, {key: shapes[key] for key in rows if key in shapes})[1]
    extra = [f"{part}: {name}" for part in parts for name in parts[part]
             if (part, name) not in used and name not in _BUFFERS]
    if missing or misfits or extra:
        raise CheckpointError(
            f"{path}: does not fit {spec.name}: {misfit_message(missing, misfits, extra)};"
            f" {misfit_remedy(missing, misfits, extra, *remedies())}")
    return view, spec


def remedies():
    """Return what would help with the weights of another model, and with a part of one."""
    config = f"pass the model's {argument('model', '--config')}"
    return (f"these are the names or sizes of another model: {config}",
            f"{config}, or {argument('base')} with a file that has what is missing"
            " (tools/convert.py)")


def fill_from_base(base, keys, spec):
    """Return {published key: LazyTensor} of what `base` has and `keys` lack, used or not."""
    return {key: passthrough(base, key, f"from {base.path.name}")
            for key in [*used_shapes(spec), *unused_keys(spec)]
            if key in base and key not in keys}


def _misfits(sources, found, shape):
    for (store, name), place in zip(sources, found):
        if store.shape(name) != shape_at(place, shape):
            yield (f"{place.part}: {name} (found {store.shape(name)}, expected"
                   f" {shape_at(place, shape)})")
        elif "F" not in store.dtype(name):
            yield f"{place.part}: {name} (found {store.dtype(name)}, {NO_FLOAT})"


def _mixed(arrays, found, dtypes):
    """Return the float32 tensor of places that are stored in different types."""
    numbers = [cast(np.ascontiguousarray(array).reshape(-1), dtype, "F32").reshape(array.shape)
               for array, dtype in zip(arrays, dtypes)]
    return from_places(numbers, found)


def _open_parts(path, ema):
    """Return {part: {name: TensorStore}} and {part: config.json}."""
    parts, configs = {}, {}
    if ema and not (path / EMA).is_dir() and not any((path / "unet").glob(f"*.{NON_EMA}.*")):
        raise CheckpointError(f"{path}: found no {EMA} in it, expected the moving average of the"
                              f" UNet for {argument('ema')}; leave out {argument('ema')}")
    for part in PARTS:
        place = path / part
        if part == "unet" and (path / EMA).is_dir():
            if ema:
                log.warning("%s: uses %s, not %s", path, EMA, part)
            else:
                log.warning("%s: uses %s; %s takes the average in %s", path, part, argument("ema"),
                            EMA)
            place = path / EMA if ema else place
        if not place.is_dir():
            continue
        parts[part] = {}
        for file in _weight_files(place, STEMS[part]):
            checkpoint = _plain(open_checkpoint(file), part)
            twice = next((name for name in checkpoint if name in parts[part]), None)
            if twice:
                raise CheckpointError(f"{file}: {twice}: found in two files of its folder, expected"
                                      " once; download them again")
            parts[part].update(dict.fromkeys(checkpoint, checkpoint))
        if (place / "config.json").exists():
            configs[part] = _read_json(place / "config.json")
    if not parts:
        found, remedy = f"none of {', '.join(PARTS)} in it", "give the folder that has them"
        files = sorted(file.name for file in path.glob("*.safetensors"))
        if files and files[0].startswith(tuple(STEMS.values())):
            found, remedy = f"one part of one ({files[0]})", "give the folder above it"
        elif len(files) == 1:
            found, remedy = f"only {files[0]} in it", "give that file"
        raise CheckpointError(f"{path}: found {found}, expected a diffusers folder; {remedy}")
    return parts, configs


def _plain(store, part):
    """Return a file of a part under diffusers' present names. Raises CheckpointError for a LoRA."""
    refuse_lora(store)
    names = {}
    for key in store:
        name = plain_key(key).removeprefix(f"{part}.")
        if part == "vae":
            name = _OLD_ATTENTION.sub(lambda found: found[1] + _NEW_ATTENTION[found[2]], name)
        if name in names:
            raise CheckpointError(f"{store.path}: found {names[name]} and {key}, which are both"
                                  f" {name}, expected it once; save the model without one of them")
        if not is_harmless(name):
            names[name] = key
    if list(names) == list(store):
        return store
    return View(store.path, store.format,
                {name: passthrough(store, key) for name, key in names.items()}, store.metadata)


def _weight_files(folder, stem):
    """Return the files with the weights of one part: what diffusers itself reads, or a variant."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    # One file, in full precision or as a variant.
    variants = [file for file in sorted(folder.glob(f"{stem}.*.safetensors"))
                if "-of-" not in file.name]
    indices = sorted(folder.glob(f"{stem}.safetensors.index.*.json"))
    apart = [file.name for file in variants if f".{NON_EMA}." in file.name]
    if whole.exists() or whole.is_symlink():    # a link without a file: an unfinished download
        if index.exists():
            log.warning("%s: uses %s, not the shards of %s", folder, whole.name, index.name)
        if apart:
            log.warning("%s: uses %s, as diffusers does, the moving average of %s", folder,
                        whole.name, apart[0])
        return [whole]
    if not index.exists() and variants:
        chosen = min(variants, key=lambda file: file.name in apart)
        if len(variants) > 1:
            log.warning("%s: uses %s of %s", folder, chosen.name,
                        ", ".join(file.name for file in variants))
        return [chosen]
    if not index.exists() and not indices:
        pickles = [file.name for file in sorted(folder.glob("*.bin"))]
        shards = [file.name for file in sorted(folder.glob(f"{stem}*-of-*.safetensors"))]
        found = "no weights"
        if shards:
            raise CheckpointError(f"{folder}: found {shards[0]} without an index, expected"
                                  f" {index.name}, which names the shards; download it, too")
        if pickles:
            found = f"only {pickles[0]}, a pickle, which can run code when opened"
        raise CheckpointError(f"{folder}: found {found}, expected {whole.name}; download the"
                              " .safetensors files")
    return shard_files(index if index.exists() else indices[0])


def shard_files(index):
    """Return the files that an index (.safetensors.index.json) names, which lie next to it.

    Raises CheckpointError for an index that is damaged.
    """
    names = _read_json(index).get("weight_map")
    names = sorted(set(names.values())) if isinstance(names, dict) and all(
        isinstance(name, str) for name in names.values()) else []
    bad = next((name for name in names
                if Path(name).name != name or not name.endswith(".safetensors")), None)
    if bad or not names:
        raise CheckpointError(f"{index}: weight_map: found {bad or 'no names of files'}, expected"
                              " names of .safetensors files next to it; download it again")
    return [index.parent / name for name in names]


def _read_json(path):
    check_file(path, CheckpointError)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
        contents = json.loads(data) if len(data) <= MAX_JSON else None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a JSON"
                              " file") from None
    except (ValueError, RecursionError):
        contents = None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: found something else, expected a JSON mapping of at most"
                              f" {MAX_JSON >> 20} MB; download it again")
    return contents


def _fingerprint(parts, base):
    """Return the Fingerprint of the parts, and of `base` for parts that are not there."""
    def size(name, axis):
        shape = parts["unet"][name].shape(name) if name in parts.get("unet", ()) else ()
        return shape[axis] if len(shape) > axis else None

    fingerprint = Fingerprint(None, False, *[None] * 4)
    if base is not None:
        fingerprint = fingerprint_of(base)
    if "vae" in parts:
        temporal = any(".temporal_res_block." in name for name in parts["vae"])
        fingerprint = fingerprint._replace(decoder="temporal" if temporal else "image",
                                 post_quant_conv="post_quant_conv.weight" in parts["vae"])
    if "unet" in parts:
        fingerprint = fingerprint._replace(
            vector_width=size("add_embedding.linear_1.weight", 1),
            channels=size("conv_in.weight", 0), inputs=size("conv_in.weight", 1))
    return fingerprint


def _compare_configs(path, spec, configs):
    """Raise CheckpointError unless what shapes do not show (heads, scale) is this model's."""
    ours = config_files(spec)
    for part, config in configs.items():
        for name in BEYOND_SHAPES[part]:
            default = GROUPS if name == NORM_GROUPS else None
            expected = ours[f"{part}/config.json"].get(name, default)
            found = config.get(name, default)
            if isinstance(expected, list) and isinstance(found, int):
                found = [found] * len(expected)
            if None not in (expected, found) and found != expected:
                raise CheckpointError(
                    f"{path / part / 'config.json'}: {name}: found {str(found)[:60]}, expected"
                    f" {expected} for {spec.name}; pass the model's {argument('name', '--config')}")
