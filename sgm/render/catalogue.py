"""Catalogue objects: the furniture libraries of Sweet Home 3D, listed in assets/catalogue.csv.

A library (.sh3f) is a zip of folders with one OBJ model each and of a Java properties file that
says how each lies. Which of them are used, for what, under which license and by whom is in the
list. The models are y up and face +z.
"""
from __future__ import annotations

import csv
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgm.common.errors import InputError
from sgm.common.files import check_file
from sgm.config.yaml_reader import DATA
from sgm.geometry.mesh import Mesh
from sgm.geometry.mesh_reader import FROM_Y_UP
from sgm.geometry.zipped import DAMAGED, ZippedMesh, members
from sgm.render.primitives import rotated

LIST = DATA / "assets" / "catalogue.csv"
PROPERTIES = "PluginFurnitureCatalog.properties"
SIZES = ("width", "height", "depth")    # of the library, along x, y and z
# Factor by which a model's proportions may differ from those that its library states. A turn that
# was left out shows in this. Seven of the objects are beyond, for another reason: they are drawn
# longer or flatter than they were modelled.
TOLERANCE = 1.2
# Degrees by which the objects of val and test are turned from facing the input view.
INPUTS = {"front": 15.0, "quarter": 50.0}
REMEDY = "docs/training.md says how to get the libraries"
log = logging.getLogger("sgm")


@dataclass(frozen=True)
class CatalogueObject:
    """One model of a library.

    rotation: nine numbers, row by row, of the model's own axes; size: (3,) as SIZES; yaw: degrees
    that the object is turned about the vertical.
    """
    name: str
    file: ZippedMesh
    rotation: tuple[float, ...]
    size: tuple[float, ...]
    yaw: float = 0.0

    def load(self) -> Mesh:
        """Return the mesh, z up, in its own units; it faces +x, but for the yaw.

        Raises MeshError.
        """
        # in 18 of the objects something is missing, as in Sweet Home 3D itself
        mesh = self.file.load("z", strict=False)
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.rotation, (3, 3))
        mesh = mesh.transformed(FROM_Y_UP @ matrix)
        # sides along x, y, z of the library, which are y, z, x here
        sides = np.ptp(mesh.vertices[np.unique(mesh.faces)], axis=0)[[1, 2, 0]]
        with np.errstate(divide="ignore"):
            off = np.log(np.divide(self.size, sides))
        if np.ptp(off) > 2 * np.log(TOLERANCE):
            log.warning("%s: measures %s, and its library says %s; it is drawn as it is", self.name,
                        *(" x ".join(f"{side:.3g}" for side in each)
                          for each in (sides, self.size)))
        return rotated(mesh, self.yaw) if self.yaw else mesh


def catalogue_items(libraries: list[str], split: str,
                    copies: int = 0) -> list[tuple[str, CatalogueObject]]:
    """Return the sorted (name, object) of a split, of those in `libraries` (.sh3f).

    The name is the library's, the object's number in it, and what is done to it: with `copies`,
    that of the copy; without, in val and test, which of the INPUTS it is. Raises InputError: a
    library that is not there, damaged, or another than in the list; no object.
    """
    listed = read_list()
    items = []
    for path in sorted(set(libraries)):
        rows = [row for row in listed if row["library"] == Path(path).stem]
        if not rows:
            names = ", ".join(sorted({row["library"] for row in listed}))
            raise InputError(f"{path}: is none of the libraries in {LIST.name} ({names}); give"
                             " those, or render the meshes of a zip or a folder by"
                             " render_orbits.py meshes")
        models = read_library(path)
        for row in rows:
            if row["use"] != "yes" or row["split"] != split:
                continue
            for name, yaw in _forms(object_name(row), split, copies):
                items.append((name, _object(path, row, models, yaw)))
    if not items:
        raise InputError(f"--split {split}: none of the objects in {', '.join(libraries)} is of"
                         " it; give all five libraries")
    return items


def missing_libraries(libraries: list[str], split: str) -> str:
    """Return which libraries hold objects of a split and are not among `libraries`, as a text.

    It is "Scopia (25), KatorLegaz (7)", with the numbers of their objects; "" if there are none.
    """
    given = {Path(path).stem for path in libraries}
    counts = Counter(row["library"] for row in read_list()
                     if row["use"] == "yes" and row["split"] == split)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common()
                     if name not in given)


def check_whole(libraries: list[str], split: str, flag: str):
    """Raise InputError if `libraries`, which `flag` has given, lack objects of a split."""
    missing = missing_libraries(libraries, split)
    if missing:
        raise InputError(f"{flag}: objects of {split} are also in {missing}, expected all of them,"
                         f" as the figures are of all; give all five libraries, {REMEDY}")


def read_list() -> list[dict[str, str]]:
    """Return the rows of assets/catalogue.csv."""
    with open(LIST, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def with_sibling(names: Iterable[str]) -> set[str]:
    """Return those of the names that are of test objects with a near-equal one in train.

    A name is an object's, perhaps with "-" or "_" and more behind it.
    """
    siblings = {object_name(row) for row in read_list() if row["sibling"]}
    return {name for name in names if re.split(r"(?<=-[0-9]{3})[-_]", name)[0] in siblings}


def object_name(row: dict[str, str]) -> str:
    """Return what a row's object is called: Scopia-012."""
    return f"{row['library']}-{int(row['id']):03d}"


def _forms(name, split, copies):
    """Return (name, yaw) of every form in which an object is rendered."""
    if copies:
        return [(f"{name}-{k:02d}", 0.0) for k in range(copies)]
    if split == "train":
        return [(name, 0.0)]
    return [(f"{name}-{view}", yaw) for view, yaw in INPUTS.items()]


def _object(path, row, models, yaw):
    """Return the CatalogueObject of a row. models: of `read_library`. Raises InputError."""
    where = f"{path}: object {row['id']} ({row['name']})"
    model = models.get(int(row["id"]), {})
    member = model.get("model", "").lstrip("/")
    if member.rpartition("/")[2] != row["file"]:
        raise InputError(f"{where}: found the model {member or '(none)'}, expected {row['file']};"
                         f" the library is of another version than the list, {REMEDY}")
    try:
        rotation = _numbers(model.get("modelRotation", "1 0 0 0 1 0 0 0 1"), 9)
        size = _numbers(" ".join(model[side] for side in SIZES), 3)
    except (KeyError, ValueError) as error:
        raise InputError(f"{where}: its properties are damaged ({error}); {REMEDY}") from None
    return CatalogueObject(object_name(row), ZippedMesh(str(path), member), rotation, size, yaw)


def _numbers(text, count):
    values = tuple(float(word) for word in text.split())
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"found {text!r}, expected {count} numbers")
    return values


def read_library(path: str) -> dict[int, dict[str, str]]:
    """Return {number of an object: {property: value}} of a library. Raises InputError."""
    check_file(Path(path))
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, expected a furniture library (.sh3f); {REMEDY}")
    if PROPERTIES not in members(Path(path)):
        raise InputError(f"{path}: has no {PROPERTIES}, expected a furniture library; {REMEDY}")
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(PROPERTIES).decode("latin-1")
    except (OSError, *DAMAGED) as error:
        raise InputError(f"{path}: {PROPERTIES} cannot be read ({error}); {REMEDY}") from None
    models = {}
    for key, value in java_properties(text):
        name, mark, number = key.partition("#")
        if mark and number.isdecimal():
            models.setdefault(int(number), {})[name] = value
    return models


ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def java_properties(text: str) -> Iterator[tuple[str, str]]:
    """Yield the (key, value) of a Java properties file (java.util.Properties.load).

    An odd number of backslashes at a line's end joins the next one to it; the key ends at the
    first "=", ":" or blank without a backslash before it.
    """
    lines = iter(text.splitlines())
    for line in lines:
        line = line.lstrip(" \t\f")
        if not line or line[0] in "#!":
            continue
        while re.search(r"(?<!\\)(\\\\)*\\$", line):
            line = line[:-1] + next(lines, "").lstrip(" \t\f")
        parts = re.fullmatch(r"((?:[^\\=: \t\f]|\\.)*)[ \t\f]*[=:]?[ \t\f]*(.*)", line)
        yield _unescaped(parts[1]), _unescaped(parts[2])


def _unescaped(text):
    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", lambda found: chr(int(found[1], 16)) if found[1]
                  else ESCAPES.get(found[2], found[2]), text)
