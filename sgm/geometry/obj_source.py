"""Prepares OBJ and PLY files for trimesh's parsers, and reads the materials that they name.

trimesh takes the first mtllib only, opens pictures in any format, and leaves out without a word
what it does not understand. So it gets the geometry, with a number in place of each material, and
the materials and textures are read here.
"""
from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgm.common.errors import one_line
from sgm.geometry.mesh import Material, MeshError
from sgm.geometry.texture_files import Textures, find_file

# options of a texture's line and how many words follow each; those of VECTORS have one to three
OPTIONS = {"blendu": 1, "blendv": 1, "cc": 1, "clamp": 1, "imfchan": 1, "mm": 2, "texres": 1,
           "bm": 1, "boost": 1, "type": 1}
VECTORS = {"o": 0.0, "s": 1.0, "t": 0.0}        # and the value that changes nothing
WORDS = ("blendu", "blendv", "cc", "clamp", "imfchan", "texres", "type")  # others are numbers
# options that are not applied, and what they say if they change nothing
UNREAD = {"mm": [0, 1], "imfchan": None, "cc": ["off"], "t": [0, 0, 0]}
GRAY = (102, 102, 102)          # trimesh's color of a material without one
COLOR_KINDS = ("uchar", "uint8", "float", "float32", "double", "float64")     # of a PLY
log = logging.getLogger("sgm")


@dataclass(frozen=True)
class Surface:
    """A material, and how its texture lies: uv of the file times scale plus offset.

    without: the material where there are no coordinates for the texture; None: that is an error.
    """
    material: Material
    scale: tuple = (1.0, 1.0)
    offset: tuple = (0.0, 0.0)
    is_clamped: bool = False
    without: Material | None = None


class Source:
    """What trimesh asks for the files that a mesh file names: a stand-in for each."""

    def __init__(self, content):
        self.content = content

    def get(self, name):
        """Return the stand-in's bytes, whatever the name."""
        return self.content

    __getitem__ = get


def read_text(path: Path) -> str:
    """Return a text file of any coding; bytes that are not UTF-8 become surrogates."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def obj_source(path: Path, shape_only: bool,
               strict: bool = True) -> tuple[str, bytes, dict[str, Surface]]:
    """Return the text for trimesh, the material file for it, and {its material: Surface}.

    Raises MeshError: a material file or texture is not there (if not `strict`, that is warned of),
    or cannot be read.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n").replace("\\\n", " ")
    # a line break in front of each line is found ten times faster than the start of a line
    text = re.sub("\n +", "\n", "\n" + text.replace("\t", " "))
    if re.search("\nf [0-9/ ]*-", text):
        text = _absolute(text)
    if re.search("\nf[^\n]* 0[/ \n]", text + "\n"):
        raise MeshError("has a face of vertex 0, and OBJ counts from 1; re-export it")
    text = re.sub("\n(usemtl|mtllib) ", lambda match: match[0].lower(), text, flags=re.IGNORECASE)
    used = list(dict.fromkeys(name.strip() for name in re.findall("\nusemtl (.*)", text)))
    numbers = {name: f"m{k}" for k, name in enumerate(used)}
    surfaces = {}
    if used and not shape_only:
        libraries = [line.strip(' "') for line in re.findall("\nmtllib (.*)", text)]
        if not libraries:
            log.warning("%s: uses materials and names no .mtl file (mtllib); it is drawn without",
                        one_line(str(path)))
        found, textures = {}, Textures()
        for library in libraries:
            for file in _or_warned(strict, path, _library_files, path.parent, library) or ():
                found |= {name: (file.parent, lines) for name, lines in _materials(file).items()}
        for name in used:
            if name in found:
                surfaces[numbers[name]] = _surface(path, name, *found[name], textures, strict)
            elif libraries:
                log.warning("%s: uses the material %s, which is in none of its .mtl files; it is"
                            " drawn without", one_line(str(path)), one_line(name))
    if not shape_only and re.search(r"\nv(?: +[-+.0-9eE]+){6}", text):
        if surfaces:
            log.warning("%s: has colors of vertices and materials; it is drawn in the materials",
                        one_line(str(path)))
        else:       # trimesh leaves them out where there are coordinates of a texture
            text = re.sub(r"([0-9])/[-0-9/]*", r"\1", re.sub("\nvt [^\n]*", "", text))
    text = re.sub("\nmtllib .*", "\n", text)
    text = re.sub("\nusemtl (.*)", lambda line: f"\nusemtl {numbers[line[1].strip()]}", text)
    stand_in = "".join(f"newmtl {number}\n" for number in surfaces)
    return f"mtllib all{text}", stand_in.encode(), surfaces


def _absolute(text):
    """Return an OBJ with indices that count from a face's place in the file made absolute."""
    counts, out = {"v": 0, "vt": 0, "vn": 0}, []
    for line in text.split("\n"):
        word = line.partition(" ")[0]
        if word in counts:
            counts[word] += 1
        elif word == "f":
            line = " ".join(["f", *("/".join(
                str(counts[kind] + 1 + int(index)) if index.startswith("-") else index
                for kind, index in zip(counts, corner.split("/"))) for corner in line.split()[1:])])
        out.append(line)
    return "\n".join(out)


def _library_files(folder, line):
    """Return the files of a mtllib line: one name, which may have blanks, or several."""
    try:
        return [find_file(folder, line)]
    except MeshError:
        if len(line.split()) < 2:
            raise
        return [find_file(folder, name) for name in line.split()]


def _materials(file):
    """Return {name: {statement: rest of its line}} of a .mtl file, statements in small letters."""
    found, current = {}, None
    for line in read_text(file).splitlines():
        word, _, rest = line.strip().replace("\t", " ").partition(" ")
        if word.lower() == "newmtl":
            current = found[rest.strip()] = {}
        elif current is not None and not word.startswith("#"):
            current[word.lower()] = rest.strip()
    return found


def _or_warned(strict, path, find, *what):
    """Return find(*what); or if that is not there and not `strict`, warn of it and return None."""
    try:
        return find(*what)
    except MeshError as error:
        if strict:
            raise
        log.warning("%s: %s; it is drawn without", one_line(str(path)), error)
        return None


def _surface(path, name, folder, lines, textures, strict):
    """Return the Surface of a material's lines."""
    options, file_name = _options(lines.get("map_kd", ""))
    # the usual form, and the only one that is read: the alpha of the texture itself
    has_holes = file_name and _options(lines.get("map_d", ""))[1] == file_name
    if "map_d" in lines and not has_holes:
        log.warning("%s: material %s has a map_d, which is not read: its holes are drawn closed",
                    one_line(str(path)), one_line(name))
    if not file_name and "map_ka" in lines:
        log.warning("%s: material %s has a map_Ka and no map_Kd; it is drawn in its Kd",
                    one_line(str(path)), one_line(name))
    file = file_name and _or_warned(strict, path, find_file, folder, file_name)
    if not file:
        return Surface(_plain(name, lines))
    # An obj's Kd is a stand-in where there is a picture: many exporters write black or gray next to
    # map_Kd.
    for option, usual in UNREAD.items():
        given = options.get(option)
        if given and (usual is None or given != usual[:len(given)]):
            log.warning("%s: material %s: option -%s of its texture is not applied",
                        one_line(str(path)), one_line(name), option)
    lie = {kind: tuple([*options.get(kind, ()), neutral, neutral][:2])
           for kind, neutral in VECTORS.items()}
    material = Material(texture=textures.read(str(file)), alpha_cutoff=0.5 if has_holes else 0.0)
    return Surface(material, lie["s"], lie["o"], options.get("clamp") == ["on"],
                   None if strict else _plain(name, lines))


def _plain(name, lines):
    """Return the Material of a material's Kd."""
    levels = np.array(GRAY) / 255
    try:
        numbers = [float(word) for word in lines["kd"].split()[:3]]
        levels = np.clip(np.array(numbers * 3 if len(numbers) == 1 else numbers) * 255, 0, 255)
        levels = levels.round() / 255
        if levels.shape != (3,) or not max(numbers) <= 2:       # a little more is clipped
            raise ValueError
    except KeyError:
        pass
    except ValueError:
        raise MeshError(f"material {name}: Kd is {lines['kd']!r}, expected three numbers from 0"
                        " to 1") from None
    return Material((*(float(level) for level in levels), 1.0))


def _options(line):
    """Return {option: its words} and the file name of a texture's line."""
    options = {}
    while match := re.match(r"-([A-Za-z]+) +", line):
        name, rest = match[1].lower(), line[match.end():]
        if name in VECTORS:
            words = re.match(r"(?:[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)? +){1,3}", rest)
        elif name in OPTIONS:
            words = re.match(r"(?:\S+ +)" f"{{{OPTIONS[name]}}}", rest)
        else:
            break
        if not words:
            break
        found = words[0].split()
        options[name] = found if name in WORDS else [float(value) for value in found]
        line = rest[words.end():]
    return options, line.strip().strip('"')


def ply_source(path: Path, shape_only: bool) -> tuple[bytes, Surface | None]:
    """Return a PLY file with a header that trimesh can read, and the Surface of its texture.

    Raises MeshError: a texture that is not there, several textures.
    """
    data = path.read_bytes()
    end = data.find(b"end_header")
    if not data.startswith(b"ply") or end < 0:
        return data, None
    header = data[:end].decode("utf-8", "surrogateescape")
    names = re.findall(r"^comment +texturefile +(.*?)\s*$", header, re.MULTILINE | re.IGNORECASE)
    names = list(dict.fromkeys(names))
    kind = re.search(r"^property +(\w+) +(?:diffuse_)?red\s*$", header, re.MULTILINE)
    if kind and kind[1] not in COLOR_KINDS and not shape_only:
        raise MeshError(f"has colors of kind {kind[1]}, expected uchar or float; save it with"
                        " colors of 8 bits")
    if not kind and not shape_only and re.search(r"^property +\w+ +r\s*$", header, re.MULTILINE):
        log.warning("%s: its colors r, g, b are not read; call them red, green, blue",
                    one_line(str(path)))
    plain = header.encode("ascii", "replace") + data[end:]
    if not names or shape_only:
        return plain, None
    if len(names) > 1:
        raise MeshError(f"names {len(names)} textures, expected one; save it as OBJ or GLB")
    file = find_file(path.parent, names[0])
    return plain, Surface(Material(texture=Textures().read(str(file))))
