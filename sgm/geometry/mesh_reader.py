"""Reader of mesh files (glb, gltf, obj, ply, stl, off), by trimesh.

Read: node transforms, triangles, texture coordinates, and base color as factor, texture and vertex
color, one material per part. Not read: normals (derived instead, edges over 40 degrees stay sharp,
because files' normals are often missing or wrong), metal, gloss, emission, skins and animation.
"""
from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import numpy as np

from sgm.geometry.mesh import Material, Mesh, MeshError, merge, srgb_from_linear
from sgm.views.images import MAX_PIXELS

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
# glTF is y-up and faces +z: (x, y, z) of our z-up world was written as (y, z, x); this takes it
# back.
FROM_Y_UP = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)


def load_mesh(path, up: str = "auto") -> Mesh:
    """Load a mesh file into the z-up world, in its own units.

    up: the file's up axis, 'y' or 'z'; 'auto' is 'y' for .glb and .gltf (their specification) and
    'z' for the others, which have no rule. Colors: glTF factors and vertex colors are linear by its
    specification and are coded here; vertex colors of one byte are taken as sRGB-coded, because the
    programs that write bytes (trimesh is one) do so.
    Raises MeshError, naming the file, if it is missing, of another kind, damaged, or without
    triangles.
    """
    import trimesh  # half a second, and the procedural family does without it
    path = Path(path)
    if not path.is_file():
        raise MeshError(f"{path}: no such file; give a mesh file ({', '.join(SUFFIXES)})")
    if path.suffix.lower() not in SUFFIXES:
        raise MeshError(f"{path}: kind {path.suffix or '(none)'} is not read; convert it to one of "
                        + ", ".join(SUFFIXES))
    gltf = path.suffix.lower() in (".glb", ".gltf")
    parts = []
    try:
        # numpy and Pillow warn of damaged files; errors follow below
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = trimesh.load_scene(path, process=False)
            linear_colors = gltf and not _byte_colors(path)
            for node in scene.graph.nodes_geometry:
                matrix, name = scene.graph[node]
                if isinstance(scene.geometry[name], trimesh.Trimesh) and len(
                    scene.geometry[name].faces
                ):
                    parts.append(
                        _part(scene.geometry[name], gltf, linear_colors).transformed(matrix)
                    )
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from None
    except Exception as error:  # trimesh's parsers raise any kind of error
        said = " ".join(f"{type(error).__name__} {error}".split())[:160]
        raise MeshError(
            f"{path}: cannot be read as a mesh ({said}); open and re-export it"
        ) from None
    if not parts:
        raise MeshError(f"{path}: has no triangles; point clouds and curves cannot be rendered")
    mesh = merge(parts)
    if up not in ("auto", "y", "z"):
        raise MeshError(f"{path}: up axis is {up!r}; expected auto, y or z")
    return mesh.transformed(FROM_Y_UP) if up == "y" or (up == "auto" and gltf) else mesh


def _part(geometry, gltf: bool, linear_colors: bool) -> Mesh:
    """Return one trimesh.Trimesh as a Mesh."""
    visual, faces = geometry.visual, np.asarray(geometry.faces)
    vertices, colors, uv, material = np.asarray(geometry.vertices), None, None, Material()
    if visual.kind == "texture":
        material, uv = _material(visual.material, gltf), visual.uv
        extra = (
            visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
        )
        if extra is not None and len(extra) == len(vertices):
            colors = np.asarray(extra)[:, :3]
            colors = colors / np.iinfo(colors.dtype).max if colors.dtype.kind in "ui" else colors
    elif visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors)[:, :3] / 255
    elif visual.kind == "face":
        vertices = vertices[faces.reshape(-1)]
        colors = np.repeat(np.asarray(visual.face_colors)[:, :3] / 255, 3, axis=0)
        faces = np.arange(len(vertices)).reshape(-1, 3)
    if colors is not None:
        colors = srgb_from_linear(colors) if linear_colors else np.asarray(colors, np.float32)
    if uv is not None:
        uv = np.nan_to_num(np.asarray(uv, np.float32)[:, :2]) if len(uv) == len(vertices) else None
    return Mesh(vertices, faces, colors=colors, uv=uv, materials=(material,))


def _byte_colors(path: Path) -> bool:
    """Return whether a glTF file stores its vertex colors as bytes; trimesh always returns bytes.
    """
    data = path.read_bytes()
    # a binary file: 12 bytes of header, then the JSON chunk with its length and kind
    if data[:4] == b"glTF":
        data = data[20:20 + struct.unpack("<I", data[12:16])[0]]
    header = json.loads(data)
    kinds = {header["accessors"][primitive["attributes"]["COLOR_0"]]["componentType"]
             for mesh in header.get("meshes", []) for primitive in mesh["primitives"]
             if "COLOR_0" in primitive["attributes"]}
    return kinds == {5121}


def _material(source, gltf: bool) -> Material:
    """Return the Material of trimesh's PBRMaterial (glTF) or SimpleMaterial (obj)."""
    if hasattr(source, "baseColorFactor"):
        factor, image = source.baseColorFactor, source.baseColorTexture
        mode, cutoff = source.alphaMode, source.alphaCutoff
    else:
        # An obj's Kd is a stand-in where there is a picture: many exporters write black or gray
        # next to map_Kd.
        image = source.image
        factor, mode, cutoff = None if image is not None else source.diffuse, None, None
    color = np.ones(4) if factor is None else np.asarray(factor, float).reshape(-1) / 255
    if gltf:
        color[:3] = srgb_from_linear(color[:3])
    if image is not None and image.width * image.height > MAX_PIXELS:
        raise MeshError(
            f"found a texture of {image.width} x {image.height} pixels, expected at most"
            f" {MAX_PIXELS // 10**6}"
            " megapixels: make it smaller"
        )
    texture = None if image is None else np.asarray(image.convert("RGBA"))
    # BLEND surfaces are drawn solid but for what is nearly invisible: leaves and hair are made so.
    hole = {"MASK": 0.5 if cutoff is None else float(cutoff), "BLEND": 0.1}.get(mode, 0.0)
    return Material(tuple(float(c) for c in color), texture, hole)
