"""The objects of a set: (name, where it comes from) of each."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from sgm.common.errors import InputError
from sgm.geometry.mesh_reader import SUFFIXES
from sgm.geometry.zipped import ZippedMesh, members
from sgm.render.families.named import ProceduralObject, objects_of


def procedural_items(seeds: Iterable[int]) -> list[tuple[str, ProceduralObject]]:
    """Return (name, object) of seeds of the first family, as `render_folders` takes them."""
    return [(each.name, each) for each in map(ProceduralObject, seeds)]


def items_of_kinds(family: str, kinds: tuple[str, ...] | None, first: int,
                   count: int) -> list[tuple[str, ProceduralObject]]:
    """Return (name, object) of the first `count` objects of some kinds, None all, from a seed on.

    Raises InputError if there are not so many.
    """
    items = [(each.name, each) for each in islice(objects_of(family, kinds, first), count)]
    if len(items) < count:
        raise InputError(f"--first-seed {first} --count {count}: seeds must stay under 2^32")
    return items


def mesh_items(paths: list[str], copies: int = 0) -> list[tuple[str, str | ZippedMesh]]:
    """Return the sorted (name, source) of mesh files, and of those in folders and zip archives.

    Folders are searched with their sub-folders. The name is the file's without its suffix; files
    that share one get their folder's in front, or the whole path. With `copies`, every file comes
    so often, the copy's number behind its name. Raises InputError if a path does not exist or no
    file is found.
    """
    files = {}
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give mesh files"
                             f" ({', '.join(SUFFIXES)}), folders or zip archives")
        if path.is_dir():
            files |= {p: str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES}
        elif path.suffix.lower() == ".zip":
            files |= {path / member: ZippedMesh(str(path), member) for member in members(path)
                      if Path(member).suffix.lower() in SUFFIXES
                      and not member.startswith("__MACOSX/")}     # what macOS adds is no mesh
        else:
            files[path] = str(path)
    if not files:
        raise InputError(f"{paths[0]}: no mesh files in it; expected {', '.join(SUFFIXES)}")
    names = [p.stem for p in sorted(files)]
    for name_of in (lambda p: f"{p.resolve().parent.name}-{p.stem}",
                    lambda p: "-".join(p.resolve().parts[1:])):
        shared = {name for name, count in Counter(names).items() if count > 1}
        names = [name_of(p) if name in shared else name for name, p in zip(names, sorted(files))]
    items = [(name, files[path]) for name, path in zip(names, sorted(files))]
    return [(f"{name}-{k:02d}", source) for name, source in items
            for k in range(copies)] if copies else items
