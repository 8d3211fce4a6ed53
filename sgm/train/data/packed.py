"""The packed sets of `tools/render_orbits.py --pack`: clips, azimuths and elevations, on white."""
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sgm.common.arrays import read_npy
from sgm.common.errors import InputError
from sgm.common.files import check_file
from sgm.train.data.clips import Clips, DataError
from sgm.views.cameras import Orbit

REMEDY = "make it again with tools/render_orbits.py procedural --pack"


@dataclass(frozen=True)
class PackedClip:
    """Row `row` of a set."""
    folder: Path
    arrays: dict
    row: int
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
        levels = self.arrays["clips"][self.row][views].astype(np.float32)
        return (levels / 127.5 - 1).transpose(0, 3, 1, 2)

    def digest(self, memo):
        """Return a hash of what `frames` would return."""
        return memo.of(self.folder / "clips.npy", self.row, lambda: hashlib.blake2b(
            np.ascontiguousarray(self.arrays["clips"][self.row]), digest_size=16).hexdigest())


class PackedOrbits(Clips):
    """Packed sets read as one; clips are memory-mapped.

    Raises DataError, one line, if a set is unfinished, has no clip, or its arrays are not what the
    tool writes; or if sets differ in the number of views or in size.
    """

    def __init__(self, folders):
        if not folders:
            raise DataError("data: found no folder, expected those of tools/render_orbits.py --pack"
                            " (--set data=[...])")
        items, shapes = [], {}
        for folder in map(Path, folders):
            arrays = load_packed(folder)
            shapes[folder] = arrays["clips"].shape[1:]
            items += [PackedClip(folder, arrays, row) for row in range(len(arrays["clips"]))]
        if len(set(shapes.values())) > 1:
            found = ", ".join(f"{folder} has {shape[0]} views of {shape[1]} pixels"
                              for folder, shape in shapes.items())
            raise DataError(f"data: sets differ in frames or size ({found}); expected the same")
        super().__init__(items, items[0].arrays["clips"].shape[2:4])

    def orbit(self, index):
        """Return the cameras of clip `index`."""
        return Orbit.from_lists(*self[index].angles)


def load_packed(folder):
    """Return the arrays of a set. Raises DataError.

    They are {clips (N, T, S, S, 3) uint8, mapped; azimuths, elevations (N, T) float32}.
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
    if channels != 3:
        on_white = ": put the views on white, a packed set has no alpha"
        remedy = on_white if channels == 4 else f"; {REMEDY}"
        raise DataError(f"{where}, expected RGB last (3 channels){remedy}")
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
