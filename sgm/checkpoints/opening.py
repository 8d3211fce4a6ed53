"""Opens the weights of a model in any form. numpy only."""
import re
from pathlib import Path

from sgm.checkpoints.diffusers.names import STEMS
from sgm.checkpoints.diffusers.reader import fill_from_base, open_folder, shard_files
from sgm.checkpoints.foreign.comfyui import with_published_places
from sgm.checkpoints.foreign.wrapped_keys import unwrapped
from sgm.checkpoints.identify import INPUT_KEY, adapt_spec, fingerprint_of, identify
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError, TensorStore, View, passthrough
from sgm.common.files import check_file

INDEX = ".safetensors.index.json"


def open_weights(path, spec=None, base=None, ema=False):
    """Open a .safetensors file (published or ours), a MindSpore .ckpt or a diffusers folder.

    path: also the result of `open_file`. spec: the ModelSpec; None recognizes it. base: an open
    TensorStore that gives the published keys that `path` lacks. ema: take the moving average of the
    weights. Return a TensorStore under the published names, and the ModelSpec with the decoder that
    the weights have. Raises CheckpointError: unreadable, or of another model; a folder also where
    keys are missing or left over, which of a file `sgm.checkpoints.loading.check_weights` and
    `sgm.checkpoints.conversion.plan` check.
    """
    if not isinstance(path, TensorStore) and is_diffusers(path):
        return open_folder(path, spec, base, ema)
    store = path if isinstance(path, TensorStore) else open_file(path, spec, ema)
    if spec is None:
        known = store if INPUT_KEY in store or base is None else base
        spec = identify(fingerprint_of(known), store.path)
    if base is not None:
        rows = {key: passthrough(store, key) for key in store}
        rows.update(fill_from_base(base, rows, spec))
        store = View(store.path, store.format, rows, store.metadata)
    adapt_spec(spec, store)                     # another model is named before it is changed
    store = with_published_places(store, spec)
    return store, adapt_spec(spec, store)


def is_diffusers(path):
    """Return whether a path is a folder, but not one of shards of a file. Raises CheckpointError.
    """
    check_file(Path(path), CheckpointError)
    return Path(path).is_dir() and _index_in(path) is None


def open_file(path, spec=None, ema=False):
    """Open a file of weights, or its shards; return a TensorStore under the published names.

    path: also the index of shards, or a folder with one. spec, ema: see
    `sgm.checkpoints.foreign.wrapped_keys.unwrapped`. Raises CheckpointError.
    """
    path = Path(path)
    check_file(path, CheckpointError)
    index = path if path.name.endswith(INDEX) else _index_in(path)
    if index is not None:
        return unwrapped(_open_shards(index), spec, ema)
    shard = re.fullmatch(r".+-\d{5}-of-(\d{5})\.safetensors", path.name)
    if shard and int(shard[1]) > 1:
        raise CheckpointError(f"{path}: found one of {int(shard[1])} files of a model, expected all"
                              f" of them; give their {INDEX[1:]}, which lies next to them")
    return unwrapped(open_checkpoint(path), spec, ema)


def _index_in(folder):
    """Return the index of the shards in a folder, or None: also if a diffusers part has them."""
    indices = sorted(Path(folder).glob(f"*{INDEX}"))
    ours = [index for index in indices if not index.name.startswith(tuple(STEMS.values()))]
    return ours[0] if len(ours) == 1 else None


def _open_shards(index):
    """Return the tensors of all shards as one TensorStore. Raises CheckpointError."""
    rows = {}
    for file in shard_files(index):
        shard = open_checkpoint(file)
        twice = next((key for key in shard if key in rows), None)
        if twice:
            raise CheckpointError(f"{file}: {twice}: found in two shards, expected once; download"
                                  " them again")
        rows.update({key: passthrough(shard, key) for key in shard})
    return View(index.parent, "safetensors", rows)
