"""What the objects of packed sets are: classes from a list, or tokens of their views by a tower."""
import csv

import numpy as np

from sgm.common.errors import InputError
from sgm.common.files import check_file
from sgm.render.families.named import procedural_object


def names_of(packed):
    """Return the names of all objects, as render_orbits.py noted them.

    packed: a `sgm.train.data.packed.PackedOrbits`. Raises InputError.
    """
    names = []
    for clip in packed.items:
        path = clip.folder / "names.npy"
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected the names of the objects; render the"
                             " set again with tools/render_orbits.py --pack")
        names.append(str(np.load(path, allow_pickle=False)[clip.row]))
    return names


def sorted_classes(told):
    """Return (classes, labels (N,)) of the class of each object: the names sorted, and places."""
    classes = sorted(set(told))
    return classes, np.array([classes.index(name) for name in told], np.int32)


def kinds_of(names):
    """Return the kind of each procedural object, by its name. Raises InputError."""
    objects = [procedural_object(name) for name in names]
    if None in objects:
        raise InputError(f"--names procedural: found an object {names[objects.index(None)]},"
                         " expected seeds, as 0000012 or one_sided-0000012; give a CSV file")
    return [each.kind for each in objects]


def listed_classes(names, path):
    """Return the class of each object by a CSV file with the columns name and class.

    Raises InputError for an object without one.
    """
    check_file(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a CSV file with the columns"
                         " name and class") from None
    if not rows or not {"name", "class"} <= set(rows[0]):
        raise InputError(f"{path}: found the columns {', '.join(rows[0]) if rows else 'none'},"
                         " expected name and class")
    told = {row["name"]: row["class"] for row in rows}
    unknown = [name for name in names if not told.get(name)]
    if unknown:
        raise InputError(f"{path}: found no class of {unknown[0]}, expected one for each of the"
                         f" {len(names)} objects")
    return [told[name] for name in names]


def tokens_of(packed, tower, views, progress):
    """Return tokens (N, views, 1, D) of evenly spread views of each object, on white.

    tower: a `conditions.Tower` of `sgm.autodecoder.latents`; progress(items) wraps the loop over
    objects.
    """
    found = []
    for index in progress(range(len(packed))):
        clip = packed[index]
        chosen = np.unique(np.linspace(0, clip.num_views - 1, views).round().astype(int))
        found.append(tower.tokens(clip.frames(chosen)))
    return np.stack(found)
