"""Sets that are arrays with a row for each object."""
from __future__ import annotations

import os
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from sgm.common.arrays import read_npy
from sgm.common.errors import InputError
from sgm.common.files import atomic
from sgm.render.sets.claims import claim
from sgm.render.sets.objects import load_object, rendered
from sgm.render.sets.processes import in_processes
from sgm.render.sets.settings import Item, OrbitSettings, Progress
from sgm.views.cameras import Orbit

PACK_BLOCK = 16     # objects per task when packing


def render_packed(items: list[Item], out: Path, settings: OrbitSettings, *, workers: int = 1,
                  overwrite: bool = False, progress: Progress | None = None) -> bool:
    """Render the orbits of items into one packed set.

    Returns whether there was anything to do. An unfinished set lies in out.partial and is
    continued. Raises InputError as `render_folders` does, if an object cannot be rendered, or if
    the disk has not enough space.
    """
    record = settings.record() | {"count": len(items)}
    if settings.kind == "procedural":
        record["first_seed"] = items[0][1].seed
    names = [name for name, _ in items]
    begun = begin_packed(out, record, names, settings.frames, settings.size, overwrite)
    if begun is None:
        return False
    # Render the rows that are missing.
    work, todo = begun
    blocks = [[(row, items[row]) for row in todo[k:k + PACK_BLOCK]]
              for k in range(0, len(todo), PACK_BLOCK)]
    done = len(items) - len(todo)
    results = in_processes(partial(render_block, folder=str(work), settings=settings), blocks,
                           workers)
    with closing(results):
        for count in results:
            done += count
            if progress:
                progress(done, len(items), None)
    finish_packed(work, out)
    return True


def render_block(rows: list[tuple[int, Item]], folder: str, settings: OrbitSettings) -> int:
    """Render items into their rows of a packed set; return how many. Raises MeshError."""
    arrays = {name: read_npy(Path(folder, name + ".npy"), "r+")
              for name in ("clips", "azimuths", "elevations", "done")}
    loaded = None
    for row, (name, source) in rows:
        if source != loaded:        # the forms of one object follow each other
            mesh, loaded = load_object(source, settings.up), source
        made = rendered(name, mesh, settings)
        arrays["clips"][row] = made.views
        arrays["azimuths"][row] = made.orbit.azimuths_deg
        arrays["elevations"][row] = made.orbit.elevations_deg
        arrays["done"][row] = True
    return len(rows)


def begin_packed(out: Path, record: dict, names: list[str], frames: int, size: int,
                 overwrite: bool = False) -> tuple[Path, list[int]] | None:
    """Return the folder of an unfinished packed set and its rows to do; None if it is finished.

    record: what render.json says of it; names: of its rows. See `render_packed`.
    """
    work = out.with_name(out.name + ".partial")
    # Start afresh, or accept what is there.
    if overwrite and out.exists():
        claim(out, record, True)            # refuses folders of others, empties our own
        shutil.rmtree(out)
    if (out / "clips.npy").exists():
        claim(out, record)                  # refuses another kind
        if (out / "names.npy").exists():    # in sets from before, the seeds' record is enough
            _check_names(out, names)
        return None
    if out.exists():
        raise InputError(f"--out {out}: exists and holds no packed set; give another --out")
    claim(work, record, overwrite)
    if not (work / "done.npy").exists():
        _make_arrays(work, out, names, frames, size)
    return work, _rows_to_do(work, names, frames, size)


def finish_packed(work: Path, out: Path):
    """Give a set whose rows are all there its name."""
    os.replace(work, out)
    (out / "done.npy").unlink()


def write_row(work: Path, row: int, views: np.ndarray, orbit: Orbit):
    """Write views (T, S, S, 4) uint8, straight alpha, and cameras of a row of an unfinished set."""
    for name, values in (("clips", views), ("azimuths", orbit.azimuths_deg),
                         ("elevations", orbit.elevations_deg), ("done", True)):
        array = read_npy(work / f"{name}.npy", "r+")
        array[row] = values
        array.flush()


def _layout(names, frames, size):
    """Return (name, type, shape) of the arrays of an unfinished packed set; "done" is the last."""
    count = len(names)
    return (("clips", np.uint8, (count, frames, size, size, 4)),
            ("azimuths", np.float32, (count, frames)), ("elevations", np.float32, (count, frames)),
            ("names", np.array(names).dtype, (count,)), ("done", bool, (count,)))


def _check_names(folder, names):
    """Raise InputError if a set has other objects."""
    found = read_npy(folder / "names.npy").tolist()
    if found != names:
        other = next((name for name, one in zip(names, found) if name != one), names[-1])
        raise InputError(f"--out {folder}: holds other objects than {other} in its place; give"
                         " another --out, or --overwrite to start afresh")


def _rows_to_do(folder, names, frames, size):
    """Return the rows of an unfinished packed set that are missing. Raises InputError."""
    try:
        arrays = {name: read_npy(folder / f"{name}.npy", "r", kind, shape)
                  for name, kind, shape in _layout(names, frames, size)}
    except (InputError, OSError) as error:
        raise InputError(f"{error}; give --overwrite to start afresh") from None
    _check_names(folder, names)
    return np.flatnonzero(~arrays["done"]).tolist()


def _make_arrays(folder: Path, out: Path, names: list[str], frames: int, size: int):
    """Write the empty arrays of a packed set; done.npy, the last, shows that all are there."""
    needed, free = len(names) * frames * size * size * 4, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"--out {out}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB"
                         " are free; render fewer or smaller orbits")
    for name, kind, shape in _layout(names, frames, size):
        with atomic(folder / f"{name}.npy", name=f"--out {out}") as new:
            array = np.lib.format.open_memmap(new, "w+", kind, shape)
            if name == "names":
                array[:] = names
            array.flush()
            with open(new, "r+b") as file:  # else a disk that fills up later would kill the process
                os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
