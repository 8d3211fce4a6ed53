"""Which rows of a set show the same object, by their names."""
import re
from collections.abc import Iterable

import numpy as np

from sgm.render.catalogue import INPUTS

_FORM = re.compile(rf"-(?:[0-9]{{2}}|{'|'.join(INPUTS)})$")     # a variation, or a view of a test


def object_of(name: str) -> str:
    """Return the object that a row shows: its name without the form in which it is rendered."""
    return _FORM.sub("", name)


def objects_of_rows(names: Iterable[str]) -> np.ndarray:
    """Return the number of each row's object (N,), counted as they come, of the rows' names."""
    objects = [object_of(str(name)) for name in names]
    numbers = {each: number for number, each in enumerate(dict.fromkeys(objects))}
    return np.array([numbers[each] for each in objects], int)


def next_other(objects: np.ndarray, row: int, among: np.ndarray | None = None) -> int:
    """Return the next row, after the last the first, that shows another object than `row` does.

    objects (N,): of `objects_of_rows`; among (N,) bool: the rows that may be taken, None: all.
    Raises ValueError if there is none.
    """
    fit = objects != objects[row]
    rows = np.flatnonzero(fit if among is None else fit & among)
    if not len(rows):
        raise ValueError(f"found no row of another object than row {row}")
    return int(rows[np.searchsorted(rows, row) % len(rows)])
