"""Stage outputs and checkpoints (npz) with the settings that produced them (numpy only)."""
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sgm.common.errors import InputError, argument
from sgm.common.files import atomic
from sgm.common.records import differing
from sgm.reconstruct.posed_views import ShapeError

# those that a user can choose; the views' hull is always made
STAGES = ("nerf", "dmtet", "texture")
DISK = 600 << 20                                # bytes that a run of the default settings may leave
# Names of counts in a state, and the bound of them.
COUNTS, MAX_COUNT = ("step", "steps", "done"), 1 << 31


def mesh_folder(views):
    """Return the default output folder of a views folder, of a transforms.json, or of a video."""
    if views.is_dir():
        return views / "mesh"
    return views.parent / ("mesh" if views.suffix == ".json" else f"{views.stem}_mesh")


def save_state(path, arrays):
    """Write {name: array} as an npz, whole or not at all. Raises InputError if that fails."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_state(path):
    """Return {name: array} of an npz. Raises ShapeError if it is damaged."""
    with _refusing(path):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for name, array in arrays.items():
            if array.dtype.kind == "f" and name != "history" and not np.isfinite(array).all():
                raise ValueError(f"{name} has values that are not finite")
            if name.rpartition(".")[2] in COUNTS and not 0 <= int(array) <= MAX_COUNT:
                raise ValueError(f"{name} is {int(array)}")
        return arrays


def restore_state(path, restore, arrays):
    """Return restore(arrays), of the npz at `path`. Raises ShapeError if they are not a state."""
    with _refusing(path):
        return restore(arrays)


@contextmanager
def _refusing(path):
    """Context manager: turns whatever a damaged state leads to into a ShapeError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a truncated zip file raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ShapeError(
            f"{path}: cannot be read ({reason[:200]}); remove it, or run without"
            f" {argument('resume')}"
        ) from None


class Work:
    """The work folder: <stage>.npz, what a stage made, and <stage>.json, its settings."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def file(self, stage):
        """Return the path of a stage's arrays, which may not exist yet."""
        return self.folder / f"{stage}.npz"

    def differing(self, stage, made_with):
        """Return the dotted names of settings that a saved stage was made with otherwise.

        None means that nothing is saved. Raises ShapeError for a damaged note.
        """
        note = self.folder / f"{stage}.json"
        if not self.file(stage).is_file() or not note.is_file():
            return None
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError):
            before = None
        if not isinstance(before, dict):
            raise ShapeError(
                f"{note}: found no JSON mapping, expected the settings of a stage; it is damaged:"
                f" remove {self.folder}, or run without {argument('resume')}"
            )
        return differing(before, json.loads(json.dumps(made_with)))

    def note(self, stage, made_with, keep):
        """Write down what a stage is about to be made with.

        What it made before is removed, unless `keep` and the settings are the same.
        """
        if not keep or self.differing(stage, made_with):
            self.file(stage).unlink(missing_ok=True)
        with atomic(self.folder / f"{stage}.json") as temporary:
            temporary.write_text(json.dumps(made_with, indent=1))


def _is_ours(folder):
    return (folder / "work").is_dir() or (folder / "report.json").is_file()


def check_kept(folder, names):
    """Raise ShapeError if files of these names in `folder` would be replaced and are no run's."""
    taken = [name for name in names if (Path(folder) / name).exists()]
    if taken and not _is_ours(Path(folder)):
        raise ShapeError(
            f"{argument('output')} {folder}: found {taken[0]}, which no earlier run has made and"
            " this one would replace; move it, or give another folder"
        )


def check_output(folder, need=DISK):
    """Raise ShapeError unless `folder` is free or an earlier run's, and the disk has `need` bytes.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise ShapeError(
            f"{argument('output')} {folder}: found a folder with other files in it, expected an"
            " empty one or that of an earlier run; give another path"
        )
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < need:
        raise ShapeError(
            f"{argument('output')} {folder}: found {free >> 20} MB free, expected {need >> 20} MB;"
            " free space, or write to another disk"
        )
