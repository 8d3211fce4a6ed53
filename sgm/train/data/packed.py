"""The packed sets of `tools/render_orbits.py --pack`: clips, azimuths and elevations.

Views have alpha, or in older sets none: those are on white already.
"""
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sgm.common.arrays import read_npy
from sgm.common.errors import InputError
from sgm.common.files import check_file
from sgm.render.procedural import on_white
from sgm.train.data.clips import Clips, DataError, hash_of
from sgm.views.cameras import Orbit
from sgm.views.images import WHITE

REMEDY = "make it again with tools/render_orbits.py --pack"


@dataclass(frozen=True)
class PackedClip:
    """Row `row` of a set, put on a background and shrunk to `size` x `size` pixels."""
    folder: Path
    arrays: dict
    row: int
    size: int
    background: tuple = WHITE
    fps = motion = None

    @property
    def name(self):
        """Return what messages call the clip."""
        return f"{self.folder}[{self.row}]"

    @property
    def num_views(self):
        """Return the number of views."""
        return self.arrays["clips"].shape[1]

    @cached_property
    def angles(self):
        """Return (azimuths, elevations), each (V,) float64 degrees."""
        return tuple(self.arrays[name][self.row].astype(np.float64)
                     for name in ("azimuths", "elevations"))

    def frames(self, views=slice(None)):
        """Return those views as float32 (n, 3, H, W) in [-1, 1]."""
        levels = self.arrays["clips"][self.row][views]
        if levels.shape[-1] == 4:
            levels = on_white(levels, self.background)
        levels = levels.astype(np.float32)
        if levels.shape[1] != self.size:        # the mean of blocks of pixels
            block = levels.shape[1] // self.size
            levels = levels.reshape(-1, self.size, block, self.size, block, 3).mean((2, 4))
        return (levels / 127.5 - 1).transpose(0, 3, 1, 2)

    def digest(self, memo):
        """Return a hash of what `frames` would return."""
        stored = memo.of(self.folder / "clips.npy", self.row, lambda: hashlib.blake2b(
            np.ascontiguousarray(self.arrays["clips"][self.row]), digest_size=16).hexdigest())
        if self.arrays["clips"].shape[2:] == (self.size, self.size, 3):
            return stored
        return hash_of(stored, self.size, self.background)


class PackedOrbits(Clips):
    """Packed sets read as one; clips are memory-mapped.

    size: pixels of a side that views are shrunk to; by default the stored ones. Raises DataError,
    one line, if a set is unfinished, has no clip, or its arrays are not what the tool writes; if
    sets differ in the number of views; or if views do not shrink to `size` by a whole factor.
    """

    def __init__(self, folders, size=None):
        if not folders:
            raise DataError("data: found no folder, expected those of tools/render_orbits.py --pack"
                            " (--set data=[...])")
        sets = [(folder, load_packed(folder)) for folder in map(Path, folders)]
        shapes = {folder: arrays["clips"].shape[1:3] for folder, arrays in sets}
        sides = {side if size is None else 0 for _, side in shapes.values()}
        if len({views for views, _ in shapes.values()}) > 1 or len(sides) > 1:
            found = ", ".join(f"{folder} has {views} views of {side} pixels"
                              for folder, (views, side) in shapes.items())
            raise DataError(f"data: sets differ in frames or size ({found}); expected the same")
        for folder, (_, side) in shapes.items():
            if size and side % size:
                raise DataError(f"data: {folder} has views of {side} pixels, expected {size} or a"
                                f" multiple of it; render it with --size {size}")
        items = [PackedClip(folder, arrays, row, size or shapes[folder][1])
                 for folder, arrays in sets for row in range(len(arrays["clips"]))]
        super().__init__(items, (items[0].size, items[0].size))

    def orbit(self, index):
        """Return the cameras of clip `index`."""
        return Orbit.from_lists(*self[index].angles)


def load_packed(folder):
    """Return the arrays of a set. Raises DataError.

    They are {clips (N, T, S, S, 3 or 4) uint8, mapped; azimuths, elevations (N, T) float32}.
    """
    for name in ("clips", "azimuths", "elevations"):
        check_file(folder / f"{name}.npy", DataError)
    try:
        arrays = {name: read_npy(folder / f"{name}.npy", "r" if name == "clips" else None)
                  for name in ("clips", "azimuths", "elevations")}
    except (OSError, InputError) as error:
        raise DataError(f"data: {folder} is not a finished packed set ({error});"
                        f" {REMEDY}") from None
    clips = arrays["clips"]
    shape = " x ".join(map(str, clips.shape))
    where = f"data: {folder / 'clips.npy'}: found {clips.dtype} of shape {shape}"
    if clips.ndim != 5:
        raise DataError(f"{where}, expected 5 axes: clips, views, height, width, 3; {REMEDY}")
    count, views, height, width, channels = clips.shape
    if channels not in (3, 4):
        raise DataError(f"{where}, expected RGB or RGBA last (3 or 4 channels); {REMEDY}")
    if clips.dtype != np.uint8:
        raise DataError(f"{where}, expected uint8 levels of 0 to 255; convert it")
    if height != width or height < 8:
        raise DataError(f"{where}, expected square views of at least 8 pixels; {REMEDY}")
    if views < 2:
        raise DataError(f"{where}, expected at least 2 views of each orbit; {REMEDY}")
    if count == 0:
        raise DataError(f"{where}: no clip; {REMEDY}")
    for name in ("azimuths", "elevations"):
        _check_angles(folder / f"{name}.npy", name, arrays[name], count, views)
    return arrays


def _check_angles(path, name, angles, count, views):
    where = f"data: {path}: found {angles.dtype} of shape {' x '.join(map(str, angles.shape))}"
    if angles.dtype.kind not in "fiu" or angles.shape != (count, views):
        raise DataError(f"{where}, expected degrees of shape {count} x {views}, as many as"
                        f" clips.npy has views; {REMEDY}")
    bad = np.argwhere(~(np.abs(angles) < 90 if name == "elevations" else np.isfinite(angles)))
    if len(bad):
        row, view = bad[0]
        expected = "above -90 and below 90 degrees" if name == "elevations" else "finite degrees"
        raise DataError(f"data: {path}: clip {row}, view {view} has {angles[row, view]:g}, expected"
                        f" {expected}; {REMEDY}")
