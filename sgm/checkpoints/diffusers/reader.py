"""Opens a Hugging Face diffusers folder as one TensorStore under the published names.

unet, vae and image_encoder (any of them may be missing) are each one .safetensors file or shards
named by an index, in full precision or else in the variant that is there (``*.fp16.safetensors``).
Pickles (.bin) are never opened.
"""
import json
from functools import partial
from pathlib import Path

from sgm.checkpoints.diffusers.config_files import BEYOND_SHAPES, config_files
from sgm.checkpoints.diffusers.names import PARTS, STEMS, from_places, inverse, places, shape_at
from sgm.checkpoints.identify import (
    Fingerprint,
    fingerprint_of,
    identify,
    misfit_message,
    misfits_of,
    with_decoder,
)
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.original_keys import unused_keys, used_shapes
from sgm.checkpoints.store import CheckpointError, LazyTensor, View, passthrough
from sgm.common.errors import argument
from sgm.common.files import check_file

MAX_JSON = 8 << 20
# A buffer that old versions of transformers wrote.
_BUFFERS = {"vision_model.embeddings.position_ids"}


def open_folder(path, spec=None, base=None):
    """Return (View under the published names, ModelSpec with the decoder that the folder has).

    spec: the model; None identifies it. base: a TensorStore under the published names, from which
    comes what the folder lacks and what nothing uses. Raises CheckpointError naming what is missing
    from both, left over, or misshapen, and a value of a config.json that is another model's.
    """
    path = Path(path)
    parts, configs = _open_parts(path)
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
            make = partial(from_places, found=found) if found[0].how else None
            rows[key] = LazyTensor(sources, make, inverse(found),
                                   sources[0][0].dtype(found[0].name), tuple(shape))
            used.update((place.part, place.name) for place in found)
    if base is not None:
        rows.update(fill_from_base(base, rows, spec))
    # Nothing missing, misshapen or left over.
    view = View(path, "diffusers", rows)
    misfits += misfits_of(view, {key: shapes[key] for key in rows if key in shapes})[1]
    extra = [f"{part}: {name}" for part in parts for name in parts[part]
             if (part, name) not in used and name not in _BUFFERS]
    if missing or misfits or extra:
        raise CheckpointError(
            f"{path}: does not fit {spec.name}: {misfit_message(missing, misfits, extra)}; pass the"
            f" model's {argument('name', '--config')}, or {argument('base')} with a file that has"
            " what is missing")
    return view, spec


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
            yield f"{place.part}: {name} (found {store.dtype(name)}, expected a floating type)"
        elif store.dtype(name) != sources[0][0].dtype(sources[0][1]):
            yield (f"{place.part}: {name} (found {store.dtype(name)}, expected that of its"
                   " neighbors)")


def _open_parts(path):
    """Return {part: {name: Checkpoint}} and {part: config.json}."""
    parts, configs = {}, {}
    for part in PARTS:
        if not (path / part).is_dir():
            continue
        parts[part] = {}
        for file in _weight_files(path / part, STEMS[part]):
            checkpoint = open_checkpoint(file)
            twice = next((name for name in checkpoint if name in parts[part]), None)
            if twice:
                raise CheckpointError(f"{file}: {twice}: found in two files of its folder, expected"
                                      " once; download them again")
            parts[part].update(dict.fromkeys(checkpoint, checkpoint))
        if (path / part / "config.json").exists():
            configs[part] = _read_json(path / part / "config.json")
    if not parts:
        raise CheckpointError(f"{path}: found none of {', '.join(PARTS)} in it, expected a"
                              " diffusers folder; give the folder that has them")
    return parts, configs


def _weight_files(folder, stem):
    """Return the files with the weights of one part: what diffusers itself reads, or a variant."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    # One file, in full precision or as a variant.
    if whole.exists():
        return [whole]
    variants = [file for file in sorted(folder.glob(f"{stem}.*.safetensors"))
                if "-of-" not in file.name]
    indices = sorted(folder.glob(f"{stem}.safetensors.index.*.json"))
    if not index.exists() and variants:
        return variants[:1]
    if not index.exists() and not indices:
        pickles = [file.name for file in sorted(folder.glob("*.bin"))]
        found = "no weights"
        if pickles:
            found = f"only {pickles[0]}, a pickle, which can run code when opened"
        raise CheckpointError(f"{folder}: found {found}, expected {whole.name}; download the"
                              " .safetensors files")
    # The shards of an index.
    index = index if index.exists() else indices[0]
    names = _read_json(index).get("weight_map")
    names = sorted(set(names.values())) if isinstance(names, dict) and all(
        isinstance(name, str) for name in names.values()) else []
    bad = next((name for name in names
                if Path(name).name != name or not name.endswith(".safetensors")), None)
    if bad or not names:
        raise CheckpointError(f"{index}: weight_map: found {bad or 'no names of files'}, expected"
                              " names of .safetensors files next to it; download it again")
    return [folder / name for name in names]


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

    fingerprint = Fingerprint(None, False, None, None, None)
    if base is not None:
        fingerprint = fingerprint_of(base)
    if "vae" in parts:
        temporal = any(".temporal_res_block." in name for name in parts["vae"])
        fingerprint = fingerprint._replace(decoder="temporal" if temporal else "image",
                                 post_quant_conv="post_quant_conv.weight" in parts["vae"])
    if "unet" in parts:
        fingerprint = fingerprint._replace(
            vector_width=size("add_embedding.linear_1.weight", 1),
            channels=size("conv_in.weight", 0))
    return fingerprint


def _compare_configs(path, spec, configs):
    """Raise CheckpointError unless what shapes do not show (heads, scale) is this model's."""
    ours = config_files(spec)
    for part, config in configs.items():
        for name in BEYOND_SHAPES[part]:
            expected, found = ours[f"{part}/config.json"].get(name), config.get(name)
            if isinstance(expected, list) and isinstance(found, int):
                found = [found] * len(expected)
            if None not in (expected, found) and found != expected:
                raise CheckpointError(
                    f"{path / part / 'config.json'}: {name}: found {str(found)[:60]}, expected"
                    f" {expected} for {spec.name}; pass the model's"
                    f" {argument('name', '--config')}")
