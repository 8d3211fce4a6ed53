"""Writes weights under the published names as a Hugging Face diffusers folder."""
import json
from functools import partial

from sgm.checkpoints.diffusers.config_files import config_files
from sgm.checkpoints.diffusers.names import PARTS, STEMS, places, shape_at, to_place
from sgm.checkpoints.original_keys import is_unused, used_shapes
from sgm.checkpoints.safetensors_format import write_safetensors
from sgm.checkpoints.store import LazyTensor, View, passthrough, stored_bytes

MAX_SHARD = 10 * 10 ** 9    # bytes of a file: diffusers' own limit, which no published part reaches


def to_parts(store, spec):
    """Return {part: View under diffusers' names} of a TensorStore under the published names.

    Keys that nothing uses are left out.
    """
    rows = {part: {} for part in PARTS}
    for key, shape in used_shapes(spec).items():
        for place in () if is_unused(key) else places(key, spec):
            make = partial(_at_place, place=place) if place.how else None
            rows[place.part][place.name] = LazyTensor(
                ((store, key),), make, place.how, store.dtype(key), shape_at(place, shape))
    return {part: View(store.path, store.format, found, {"format": "pt"})
            for part, found in rows.items()}


def _at_place(arrays, place):
    return to_place(arrays[0], place)


def write_folder(path, parts, spec, dtype=None, progress=None):
    """Write `to_parts`' views and the configuration of a ModelSpec as a new diffusers folder.

    dtype: as for `sgm.checkpoints.safetensors_format.write_safetensors`. Raises CheckpointError,
    OSError.
    """
    for name, contents in config_files(spec).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        _write_json(path / name, contents)
    for part, view in parts.items():
        shards = _shards(view, dtype)
        names = [f"{STEMS[part]}.safetensors"] if len(shards) == 1 else [
            f"{STEMS[part]}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        for name, keys in zip(names, shards):
            shard = {key: passthrough(view, key) for key in keys}
            shard = View(view.path, view.format, shard, view.metadata)
            write_safetensors(path / part / name, shard, dtype, progress)
        if len(shards) > 1:
            _write_json(path / part / f"{STEMS[part]}.safetensors.index.json", {
                "metadata": {"total_size": stored_bytes(view, dtype)},
                "weight_map": {key: name for name, keys in zip(names, shards) for key in keys}})


def _shards(view, dtype):
    """Return lists of keys of at most MAX_SHARD bytes each, in order."""
    shards, size = [[]], 0
    for key in sorted(view):
        nbytes = stored_bytes(view, dtype, [key])
        if shards[-1] and size + nbytes > MAX_SHARD:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += nbytes
    return shards


def _write_json(path, contents):
    path.write_text(json.dumps(contents, indent=2, sort_keys=True) + "\n", encoding="utf-8")
