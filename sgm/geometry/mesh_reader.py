"""Reader of mesh files (glb, gltf, obj, ply, stl, off), those but glTF by trimesh.

Read: node transforms, triangles, texture coordinates, and base color as factor, texture and vertex
color, one material per part. Not read: normals (derived instead, edges over 40 degrees stay sharp,
because files' normals are often missing or wrong), metal, gloss, emission, skins and animation.
"""
from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from sgm.common.errors import one_line
from sgm.common.files import check_file
from sgm.geometry.gltf_reader import read_gltf
from sgm.geometry.mesh import Material, Mesh, MeshError, merge
from sgm.geometry.obj_source import Source, Surface, obj_source, ply_source
from sgm.geometry.texture_files import warn_of_edges

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
# glTF is y-up and faces +z: (x, y, z) of our z-up world was written as (y, z, x); this takes it
# back.
FROM_Y_UP = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
log = logging.getLogger("sgm")


def load_mesh(path, up: str = "auto", shape_only: bool = False, strict: bool = True) -> Mesh:
    """Load a mesh file into the z-up world, in its own units.

    up: the file's up axis, 'y' or 'z'; 'auto' is 'y' for .glb and .gltf (their specification) and
    'z' for the others, which have no rule. shape_only: leave out colors and textures. Colors: glTF
    factors and vertex colors are linear by its specification and are coded here; vertex colors of
    one byte are taken as sRGB-coded, because the programs that write bytes (trimesh is one) do so.
    strict: False draws an OBJ without material files, textures and coordinates for these that are
    missing, with a warning.
    Raises MeshError, naming the file, if it is missing, of another kind, damaged, or without
    triangles, or if a texture that it names is missing or of a kind that is not read.
    """
    path = Path(path)
    check_file(path, MeshError)
    if not path.is_file():
        raise MeshError(f"{path}: no such file; give a mesh file ({', '.join(SUFFIXES)})")
    if path.suffix.lower() not in SUFFIXES:
        raise MeshError(f"{path}: kind {path.suffix or '(none)'} is not read; convert it to one of "
                        + ", ".join(SUFFIXES))
    is_gltf = path.suffix.lower() in (".glb", ".gltf")
    try:
        # numpy and Pillow warn of damaged files; errors follow below
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = (read_gltf(path, shape_only) if is_gltf
                     else _read_parts(path, shape_only, strict))
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
    return mesh.transformed(FROM_Y_UP) if up == "y" or (up == "auto" and is_gltf) else mesh


def _read_parts(path: Path, shape_only: bool, strict: bool) -> list[Mesh]:
    """Return the meshes of a file that trimesh parses."""
    import trimesh  # half a second, and the procedural family does without it
    kind, surfaces = path.suffix.lower()[1:], {}
    if kind == "obj":
        text, stand_in, surfaces = obj_source(path, shape_only, strict)
        content, source = io.BytesIO(text.encode("ascii", "replace")), Source(stand_in)
    elif kind == "ply":
        data, surface = ply_source(path, shape_only)
        surfaces = {None: surface} if surface else {}
        content, source = io.BytesIO(data), Source(_any_picture())
    else:
        data = path.read_bytes()
        if data[:80].lstrip().startswith(b"COFF") or kind == "stl" and b"COLOR=" in data[:80]:
            log.warning("%s: its colors are not read; save it as PLY, OBJ or GLB",
                        one_line(str(path)))
        count = int.from_bytes(data[80:84], "little")
        if kind == "off" or len(data) != 84 + 50 * count:   # a text, maybe with names in any coding
            data = data.decode("latin-1").encode("ascii", "replace")
        content, source = io.BytesIO(data), Source(b"")
    scene = trimesh.load_scene(content, file_type=kind, resolver=source, process=False)
    parts = []
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_part(path, geometry, surfaces, shape_only).transformed(matrix))
    return parts


def _any_picture() -> bytes:
    """Return a picture for trimesh, which reads texture coordinates only next to one."""
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    return out.getvalue()


def _part(path: Path, geometry, surfaces: dict[str | None, Surface], shape_only: bool) -> Mesh:
    """Return one trimesh.Trimesh as a Mesh. surfaces: by the names of its materials; None: all."""
    visual, faces = geometry.visual, np.asarray(geometry.faces)
    vertices, colors, uv, material = np.asarray(geometry.vertices), None, None, Material()
    if shape_only:
        return Mesh(vertices, faces)
    if visual.kind == "texture":
        surface = surfaces.get(getattr(visual.material, "name", None)) or surfaces.get(None)
        uv = visual.uv
        if surface is None:     # texture coordinates without a material: trimesh's own gray
            surface = Surface(Material(texture=np.asarray(visual.material.image.convert("RGBA"))))
        material = surface.material
        extra = (
            visual.vertex_attributes.get("color") if hasattr(visual, "vertex_attributes") else None
        )
        if extra is not None and len(extra) == len(vertices):
            colors = np.asarray(extra)[:, :3]
            colors = colors / np.iinfo(colors.dtype).max if colors.dtype.kind in "ui" else colors
        if uv is not None:
            uv = np.nan_to_num(np.asarray(uv, np.float32)[:, :2])
            uv = uv * np.float32(surface.scale) + np.float32(surface.offset)
            uv = uv if len(uv) == len(vertices) else None
        if material.texture is not None and uv is None and surface.without:
            log.warning("%s: has a texture and no coordinates for it (vt); it is drawn without",
                        one_line(str(path)))
            material = surface.without
        if material.texture is not None and uv is None:
            raise MeshError("has a texture and no coordinates for it (vt); re-export it")
        if surface.is_clamped:
            warn_of_edges(path, "a texture with -clamp", uv, "stretched")
    elif None in surfaces:
        raise MeshError("names a texture and has no coordinates for it; re-export it")
    elif visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors)[:, :3] / 255
    elif visual.kind == "face":
        vertices = vertices[faces.reshape(-1)]
        colors = np.repeat(np.asarray(visual.face_colors)[:, :3] / 255, 3, axis=0)
        faces = np.arange(len(vertices)).reshape(-1, 3)
    if colors is not None:
        colors = np.asarray(colors, np.float32)
    return Mesh(vertices, faces, colors=colors, uv=uv, materials=(material,))
