"""Opens the weights of a model in any form. numpy only."""
from pathlib import Path

from sgm.checkpoints.diffusers.reader import fill_from_base, open_folder
from sgm.checkpoints.identify import adapt_spec, fingerprint_of, identify
from sgm.checkpoints.mapped_file import open_checkpoint
from sgm.checkpoints.store import CheckpointError, View, passthrough
from sgm.common.files import check_file


def open_weights(path, spec=None, base=None):
    """Open a .safetensors file (published or ours), a MindSpore .ckpt or a diffusers folder.

    spec: the ModelSpec; None recognizes it. base: an open TensorStore that gives the published keys
    that `path` lacks. Return a TensorStore under the published names, and the ModelSpec with the
    decoder that the weights have. Raises CheckpointError: unreadable, or of another model; a folder
    also where keys are missing or left over, which of a file
    `sgm.checkpoints.loading.check_weights` and `sgm.checkpoints.conversion.plan` check.
    """
    path = Path(path)
    check_file(path, CheckpointError)
    if path.is_dir():
        return open_folder(path, spec, base)
    store = open_checkpoint(path)
    spec = spec or identify(fingerprint_of(store), path)
    if base is not None:
        rows = {key: passthrough(store, key) for key in store}
        rows.update(fill_from_base(base, rows, spec))
        store = View(path, store.format, rows, store.metadata)
    return store, adapt_spec(spec, store)
