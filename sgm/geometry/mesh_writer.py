"""Writer of mesh files: binary glTF, Wavefront OBJ and PLY, each whole or not at all.

GLB is glTF 2.0 (Khronos): y up, facing +z, so (x, y, z) of our z-up world is written (y, z, x); one
vertex per texture coordinate, normals, the PNG inside. OBJ and PLY stay in the input views' own
world; OBJ also y up, as GLB. OBJ keeps vertices whole at seams, has normals, and its .mtl and .png
next to it; PLY has whole
vertices with colors, for programs that need a closed mesh and no texture. A ColoredMesh has colors
instead of a texture in all three: linear in GLB, as glTF has them, sRGB-coded in the others.
"""
from __future__ import annotations

import io
import json
import struct
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from sgm.common.errors import InputError, argument
from sgm.common.files import atomic
from sgm.geometry.mesh import linear_from_srgb
from sgm.geometry.topology import vertex_normals

SUFFIXES = (".glb", ".obj", ".ply")
# What turns a z-up world, by the axis that is up in an OBJ.
UP = {None: np.eye(3), "z": np.eye(3), "y": np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])}
MATERIAL = b"newmtl views"                      # begins the .mtl of an OBJ, and tells it by that
FLOAT, UNSIGNED = 5126, 5125                    # glTF component types
VERTICES, INDICES = 34962, 34963                # glTF buffer targets


def save(mesh, path, obj_up: str | None = None) -> list[Path]:
    """Write `mesh`, whose vertices are in the input's world, in the format of the suffix.

    Return the files written: mesh.obj brings mesh.mtl and mesh.png. Files appear whole or not at
    all, the one that names the others last. obj_up: the axis that is up in an OBJ: "y" turns it as
    a GLB, "z" to our world, None leaves it in the input's. Raises InputError for another suffix, a
    path that is a folder, one that cannot be written, and a picture at the texture's place that is
    not an earlier mesh's.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: kind {path.suffix or '(none)'} cannot be written; give one of"
            f" {', '.join(SUFFIXES)}"
        )
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a file to write; give another path")
    if obj_up not in UP:
        raise InputError(f"{argument('obj_up')}: found {obj_up!r}, expected y or z")
    make = {".glb": _glb, ".obj": partial(_obj, up=obj_up), ".ply": _ply}[path.suffix.lower()]
    files = [(path.with_name(name), data) for name, data in make(mesh, path)]
    _check_own([file for file, _ in files[:-1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:                  # the file entered last gets its name first
        for file, data in reversed(files):
            stack.enter_context(atomic(file, len(data))).write_bytes(data)
    return [file for file, _ in files]


def _check_own(files):
    """Raise InputError unless the texture and the .mtl of an OBJ are new or an earlier mesh's.

    Nobody has named them: the texture of cup.obj is cup.png, like the picture of the cup.
    """
    picture, material = files or (None, None)
    if not files or not any(file.exists() for file in files):
        return
    if not material.exists() or MATERIAL not in material.read_bytes():
        found = next(file for file in files if file.exists())
        raise InputError(f"{found}: is in the way, an .obj of that name would replace it and is not"
                         " known to have made it; give another name")


def png(texture: np.ndarray) -> bytes:
    """Return a uint8 picture (H, W, 3) as the bytes of a PNG file."""
    out = io.BytesIO()
    Image.fromarray(texture).save(out, "PNG")
    return out.getvalue()


def _glb(mesh, path):
    vertices, normals, uv, faces = mesh.split()
    if not np.array_equal(mesh.upright, np.eye(3)):
        vertices, normals = vertices @ mesh.upright.T, normals @ mesh.upright.T
        faces = faces if np.linalg.det(mesh.upright) > 0 else faces[:, ::-1]
    name = path.stem.encode("utf-8", "backslashreplace").decode()
    binary, views, accessors = bytearray(), [], []

    def put(data, target=None):
        view = dict(buffer=0, byteOffset=len(binary), byteLength=len(data))
        views.append(view if target is None else view | dict(target=target))
        binary.extend(data + b"\0" * (-len(data) % 4))
        return len(views) - 1

    def attribute(array, kind, bounds=False):
        array = np.ascontiguousarray(array, np.float32)
        accessors.append(
            dict(
                bufferView=put(array.tobytes(), VERTICES),
                componentType=FLOAT,
                count=len(array),
                type=kind,
            )
        )
        if bounds:
            accessors[-1] |= dict(min=array.min(0).tolist(), max=array.max(0).tolist())
        return len(accessors) - 1

    # Geometry.
    attributes = dict(
        POSITION=attribute(vertices[:, [1, 2, 0]], "VEC3", bounds=True),
        NORMAL=attribute(normals[:, [1, 2, 0]], "VEC3"),
    )
    if uv is None:
        colors = linear_from_srgb(mesh.vertex_colors() / 255)
        attributes["COLOR_0"] = attribute(colors, "VEC3")
    else:                                       # glTF counts v downwards
        attributes["TEXCOORD_0"] = attribute(np.stack([uv[:, 0], 1 - uv[:, 1]], 1), "VEC2")
    accessors.append(
        dict(
            bufferView=put(faces.astype("<u4").tobytes(), INDICES),
            componentType=UNSIGNED,
            count=faces.size,
            type="SCALAR",
        )
    )
    # A matt surface. Unlit if the colors hold the light of the views, which programs that do not
    # know the extension shade nevertheless.
    texture, unlit, used = mesh.albedo, {}, {}
    if texture is None:
        texture, unlit = mesh.texture, dict(extensions=dict(KHR_materials_unlit={}))
        used = dict(extensionsUsed=["KHR_materials_unlit"])
    base = {}
    if texture is not None:
        base = dict(baseColorTexture=dict(index=0))
        used |= dict(
            textures=[dict(sampler=0, source=0)],
            samplers=[dict(magFilter=9729, minFilter=9987, wrapS=33071, wrapT=33071)],
            images=[dict(bufferView=put(png(texture)), mimeType="image/png", name=name)])
    material = dict(
        name="views",
        doubleSided=True,
        **unlit,
        pbrMetallicRoughness=dict(metallicFactor=0.0, roughnessFactor=1.0, **base),
    )
    header = dict(
        asset=dict(version="2.0", generator="views_to_mesh"),
        **used,
        scene=0,
        scenes=[dict(nodes=[0])],
        nodes=[dict(mesh=0, name=name)],
        meshes=[
            dict(
                name=name,
                primitives=[dict(attributes=attributes, indices=len(accessors) - 1, material=0)],
            )
        ],
        materials=[material],
        accessors=accessors,
        bufferViews=views,
        buffers=[dict(byteLength=len(binary))],
    )
    # Header and binary chunk.
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(binary)
    return [
        (
            path.name,
            b"glTF"
            + struct.pack("<II", 2, size)
            + struct.pack("<I4s", len(text), b"JSON")
            + text
            + struct.pack("<I4s", len(binary), b"BIN\0")
            + bytes(binary),
        )
    ]


def _obj(mesh, path, up):
    # Names of files in an OBJ end at white space for many readers.
    stem = "_".join(path.stem.split()) or "mesh"
    out = io.StringIO()
    normals = vertex_normals(mesh.vertices, mesh.faces)
    normals[~normals.any(1)] = 0, 0, 1
    turn = UP[up] if up is None else UP[up] @ mesh.upright
    flips = np.linalg.det(turn) < 0
    if mesh.texture is None:                    # colors after the place, as most programs read them
        out.write(f"o {stem}\n")
        rows = np.concatenate([mesh.vertices @ turn.T, mesh.vertex_colors() / 255], 1)
        np.savetxt(out, rows, "v %.9g %.9g %.9g %.4f %.4f %.4f")
        np.savetxt(out, normals @ turn.T, "vn %.4f %.4f %.4f")
        corners = mesh.faces[:, ::-1] if flips else mesh.faces
        np.savetxt(out, corners.repeat(2, 1) + 1, "f %d//%d %d//%d %d//%d")
        return [(path.name, out.getvalue().encode("utf-8", "surrogateescape"))]
    out.write(f"mtllib {stem}.mtl\no {stem}\n")
    np.savetxt(out, mesh.vertices @ turn.T, "v %.9g %.9g %.9g")
    np.savetxt(out, mesh.uv, "vt %.7g %.7g")
    np.savetxt(out, normals @ turn.T, "vn %.4f %.4f %.4f")
    out.write("usemtl views\n")
    corners = np.stack([mesh.faces, mesh.face_uv, mesh.faces], -1)
    corners = corners[:, ::-1] if flips else corners
    np.savetxt(out, corners.reshape(-1, 9) + 1, "f %d/%d/%d %d/%d/%d %d/%d/%d")
    material = (f"{MATERIAL.decode()}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\n"
                f"map_Kd {stem}.png\n")
    return [
        (f"{stem}.png", png(mesh.texture)),
        (f"{stem}.mtl", material.encode("utf-8", "surrogateescape")),
        (path.name, out.getvalue().encode("utf-8", "surrogateescape")),
    ]


def _ply(mesh, path):
    return [(path.name, ply(mesh.vertices, mesh.faces, mesh.vertex_colors()))]


def ply(vertices, faces, colors) -> bytes:
    """Return a binary PLY of vertices (N, 3), faces (M, 3) and vertex colors (N, 3), levels to 255.
    """
    vertices, kind = np.asarray(vertices), "float"
    if np.abs(vertices - vertices.astype(np.float32)).max() > 1e-6 * np.ptp(vertices, axis=0).max():
        kind = "double"  # a world far from its origin
    fields = [(k, "<f8" if kind == "double" else "<f4") for k in "xyz"] + [
        (k, "u1") for k in ("red", "green", "blue")
    ]
    rows = np.empty(len(vertices), fields)
    for k, name in enumerate("xyz"):
        rows[name] = vertices[:, k]
    for k, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, k]
    listed = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    listed["count"], listed["corners"] = 3, faces
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {len(rows)}",
            *(f"property {kind} {name}" for name in "xyz"),
            *(f"property uchar {name}" for name in ("red", "green", "blue")),
            f"element face {len(listed)}",
            "property list uchar int vertex_indices",
            "end_header\n",
        ]
    )
    return header.encode() + rows.tobytes() + listed.tobytes()
