"""Finds and reads the textures of mesh files, which come from any system and name files loosely."""
from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path

import numpy as np

from sgm.common.errors import one_line
from sgm.common.files import check_file
from sgm.geometry.mesh import MeshError
from sgm.views.images import FORMATS, MAX_PIXELS, ImageError, read_image, stored, to_rgba

MAX_TEXELS = 4 * MAX_PIXELS      # a small picture file can decode to very many
# how a name that is not UTF-8, or only by accident, may be coded: in Chinese, Japanese, or in Latin
ENCODINGS = ("gb18030", "cp932", "latin-1")
log = logging.getLogger("sgm")


def find_file(folder: Path, name: str) -> Path:
    """Return the file that a mesh file in `folder` names.

    Backslashes, the case of letters, and the coding of letters beyond ASCII (bytes that are not
    UTF-8 stand in the name as Python's surrogates) may differ. A path that does not exist, as one
    of another machine, stands for a file of its name in the folder, with a warning. Raises
    MeshError: no such file, or several.
    """
    names = [name]
    if not name.isascii():
        raw = name.encode("utf-8", "surrogateescape")
        names += [raw.decode(coding, "replace") for coding in ENCODINGS]
    names += [each.replace("\\", "/") for each in names if "\\" in each]
    for each in names:
        check_file(folder / each, MeshError)
        if os.path.isfile(folder / each):       # no error for a name that is too long
            return folder / each
    for each in names:
        if found := _in_any_case(folder, Path(each).parts):
            return found
    for each in names:
        if found := len(Path(each).parts) > 1 and _in_any_case(folder, Path(each).parts[-1:]):
            log.warning("%s: is not there; %s, which is, is taken for it", one_line(name),
                        one_line(str(found)))
            return found
    raise MeshError(f"names {name}, which is not in {folder}; put it there, or take its line out")


def _in_any_case(folder, parts):
    """Return the file of these parts of a path, whatever the case of its letters, or None."""
    found = [folder]
    for part in parts:
        found = [Path(place, entry) for place in found for entry in _entries(place)
                 if _folded(entry) == _folded(part)] if part != ".." else [
                     place / ".." for place in found]
    found = [path for path in found if os.path.isfile(path)]
    if len(found) > 1:
        raise MeshError(f"names {'/'.join(parts)}, and there are {found[0].name} and"
                        f" {found[1].name}; remove or rename one")
    return found[0] if found else None


def _entries(folder):
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def _folded(name):
    return unicodedata.normalize("NFC", name).casefold()


class Textures:
    """The textures of one mesh file, each read once, of MAX_TEXELS pixels together."""

    def __init__(self):
        self._known, self._room = {}, MAX_TEXELS

    def read(self, name: str, data: bytes | None = None, use_profile: bool = True) -> np.ndarray:
        """Return a texture, (H, W, 4) uint8 RGBA, of a file or of its content `data`.

        It is as stored: textures are not turned by EXIF data. Raises MeshError.
        """
        if name not in self._known:
            # nothing in a TGA tells that it is one
            formats = (*FORMATS, "TGA") if name.lower().endswith(".tga") else FORMATS
            try:
                texture = np.asarray(read_image(
                    name, lambda image: stored(
                        image, lambda image: to_rgba(image, name, use_profile)), data, formats))
            except ImageError as error:
                raise MeshError(f"texture {error}") from None
            self._room -= texture.shape[0] * texture.shape[1]
            if self._room < 0:
                raise MeshError(f"texture {name}: with it they have over {MAX_TEXELS // 10**6}"
                                " megapixels together, expected fewer; make them smaller")
            self._known[name] = texture
        return self._known[name]


def warn_of_edges(path: Path, name: str, uv: np.ndarray, mode: str):
    """Warn if a texture that is not to be repeated is used beyond its edges, where ours repeats."""
    if uv is not None and len(uv) and (uv.min() < -0.01 or uv.max() > 1.01):
        log.warning("%s: %s is %s beyond its edges, and is repeated here", one_line(str(path)),
                    one_line(name), mode)
