"""Reader of glTF 2.0 (Khronos), .glb and .gltf: triangles, node transforms, base colors.

Of the extensions that change what is read here, KHR_texture_transform, KHR_mesh_quantization,
EXT_texture_webp and _avif, and KHR_materials_pbrSpecularGlossiness are applied. A file that
requires one that is not known here is refused by the extension's name.
"""
from __future__ import annotations

import base64
import json
import logging
import struct
import urllib.parse
from pathlib import Path

import numpy as np
from PIL import Image

from sgm.common.errors import one_line
from sgm.geometry.mesh import Material, Mesh, MeshError, srgb_from_linear
from sgm.geometry.texture_files import Textures, find_file, warn_of_edges

READ = {"KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp", "EXT_texture_avif",
        "KHR_materials_pbrSpecularGlossiness"}
# These do not touch shape or base color; and every KHR_materials_ is about gloss, light and glass.
HARMLESS = {"KHR_lights_punctual", "KHR_animation_pointer", "KHR_xmp", "KHR_xmp_json_ld",
            "EXT_lights_image_based"}
# what would be drawn otherwise, in files that only use it and do not require it
CHANGES = {"EXT_mesh_gpu_instancing": "its copies are not drawn",
           "KHR_node_visibility": "hidden parts are drawn"}
# Triangles that a small file may draw: by placing its parts again, and by listing the same data as
# further parts. A stored one takes two bytes and more.
MAX_COPIED, MAX_REPEATED = 2_000_000, 300_000
KINDS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
BYTE = 5121
TRIANGLES, STRIP, FAN = 4, 5, 6
REPEAT, MIRRORED = 10497, 33648
IMAGE_SOURCES = ("EXT_texture_webp", "EXT_texture_avif")
log = logging.getLogger("sgm")


def read_gltf(path: Path, shape_only: bool = False) -> list[Mesh]:
    """Return the meshes of a .glb or .gltf file, placed by its nodes; y is up.

    shape_only: without colors and textures. Raises MeshError; damaged files raise anything else.
    """
    return _File(path, shape_only).meshes()


class _File:
    def __init__(self, path, shape_only):
        self.path, self.shape_only = path, shape_only
        data = path.read_bytes()
        self.json, self.binary = _parts(data)
        self.size = len(data)
        self._buffers, self._textures = {}, Textures()
        version = str(self.json.get("asset", {}).get("version", "2.0"))
        if not version.startswith("2"):
            raise MeshError(f"found glTF {version}, expected 2.0; open and re-export it")
        for name in self.json.get("extensionsRequired", ()):
            if name not in READ | HARMLESS and not str(name).startswith("KHR_materials_"):
                raise MeshError(f"requires the extension {name}, which is not read; export it"
                                " without compression and with PNG or JPEG textures")
        for name in CHANGES.keys() & set(self.json.get("extensionsUsed", ())):
            log.warning("%s: uses %s: %s", one_line(str(path)), name, CHANGES[name])

    def meshes(self):
        """Return a Mesh for every primitive of every node that is drawn."""
        nodes = [(self.json["nodes"][k], matrix) for k, matrix in self._placed()]
        nodes = [(node, matrix) for node, matrix in nodes if "mesh" in node]
        if any("skin" in node for node, _ in nodes):
            log.warning("%s: has a skeleton, which is not applied: its parts are drawn as modeled",
                        one_line(str(self.path)))
        self._check_size([node["mesh"] for node, _ in nodes])
        parts, out = {}, []
        for node, matrix in nodes:
            number = node["mesh"]
            if number not in parts:
                parts[number] = self._mesh(self.json["meshes"][number])
            if np.linalg.det(matrix[:3, :3]) != 0:      # parts of no size are hidden ones
                out += [part.transformed(matrix) for part in parts[number]]
        return out

    def _check_size(self, numbers):
        """Raise MeshError if a small file draws very many triangles by repeating its parts.

        numbers: of the meshes that its nodes place.
        """
        triangles = {number: sum(map(self._count, self.json["meshes"][number]["primitives"]))
                     for number in set(numbers)}
        listed, placed = sum(triangles.values()), sum(triangles[number] for number in numbers)
        files = sum(len(self._buffer(k)) for k, buffer in enumerate(self.json.get("buffers", ()))
                    if "uri" in buffer)
        for drawn, most in ((listed, MAX_REPEATED + (self.size + files) // 2),
                            (placed - listed, MAX_COPIED)):
            if drawn > most:
                raise MeshError(f"draws {drawn} triangles by repeating its parts, expected at most"
                                f" {most}; make fewer copies")

    def _count(self, primitive):
        """Return the number of a primitive's triangles, by its number of corners."""
        index = primitive.get("indices", primitive["attributes"]["POSITION"])
        corners = self.json["accessors"][index]["count"]
        mode = primitive.get("mode", TRIANGLES)
        return corners // 3 if mode == TRIANGLES else corners if mode in (STRIP, FAN) else 0

    def _placed(self):
        """Yield (node, (4, 4) matrix to the world) of the scene's nodes."""
        nodes, scenes = self.json.get("nodes", []), self.json.get("scenes")
        roots = range(len(nodes))
        if scenes:
            roots = scenes[self.json.get("scene", 0)].get("nodes", [])
        elif nodes:
            children = {child for node in nodes for child in node.get("children", ())}
            roots = [k for k in roots if k not in children]
        seen, waiting = set(), [(root, np.eye(4)) for root in roots]
        while waiting:
            k, parent = waiting.pop()
            if k in seen:
                raise MeshError(f"node {k} has two parents, expected a tree; re-export it")
            seen.add(k)
            matrix = parent @ _matrix(nodes[k])
            yield k, matrix
            waiting += [(child, matrix) for child in nodes[k].get("children", ())]

    def _mesh(self, mesh):
        if any(mesh.get("weights", ())):
            log.warning("%s: has morph targets, which are not applied", one_line(str(self.path)))
        parts = [self._primitive(primitive) for primitive in mesh["primitives"]
                 if primitive.get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN)]
        return [part for part in parts if part is not None]

    def _primitive(self, primitive):
        """Return a primitive as a Mesh in its own frame, or None without triangles."""
        attributes = primitive["attributes"]
        position = self.json["accessors"][attributes["POSITION"]]
        if "bufferView" not in position and "sparse" not in position:
            name = next(iter(primitive.get("extensions", ())), "no extension either")
            raise MeshError(f"has no positions but in {name}, which is not read; export it without"
                            " compression")
        vertices = self._accessor(attributes["POSITION"])
        corners = np.arange(len(vertices))
        if "indices" in primitive:
            corners = self._accessor(primitive["indices"]).reshape(-1).astype(np.int64)
        faces = _triangles(corners, primitive.get("mode", TRIANGLES))
        if not len(faces):
            return None
        # Parts may share one list of vertices.
        used, inverse = np.unique(faces, return_inverse=True)
        if used[-1] >= len(vertices):
            raise MeshError(f"names vertex {used[-1]}, but there are {len(vertices)}; re-export it")
        vertices, faces = vertices[used], inverse.reshape(-1, 3)
        if self.shape_only:
            return Mesh(vertices, faces)
        material, uv = Material(), None
        if "material" in primitive:
            material, uv = self._material(primitive["material"], attributes, used)
        colors = self._colors(attributes, used, "material" in primitive)
        return Mesh(vertices, faces, colors=colors, uv=uv, materials=(material,))

    def _colors(self, attributes, used, has_material):
        """Return colors of the vertices `used`, sRGB-coded, or None.

        Bytes are taken as coded, other numbers as linear.
        """
        if "COLOR_0" not in attributes:
            return None
        colors = self._accessor(attributes["COLOR_0"])[used, :3]
        kind = np.dtype(KINDS[self.json["accessors"][attributes["COLOR_0"]]["componentType"]])
        if colors.dtype.kind != "f":            # the flag `normalized` is left out by some programs
            colors = colors / np.iinfo(kind).max
        if not has_material:
            colors = np.clip(colors * 255.0, 0, 255).round() / 255
        return colors.astype(np.float32) if kind == np.uint8 else srgb_from_linear(colors)

    # --- materials ------------------------------------------------------------------------------

    def _material(self, number, attributes, used):
        """Return a Material, and the texture coordinates, v up, of the vertices `used`, or None."""
        source = self.json["materials"][number]
        rough = source.get("pbrMetallicRoughness", {})
        factor, info = rough.get("baseColorFactor", [1, 1, 1, 1]), rough.get("baseColorTexture")
        glossy = source.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        if glossy is None:
            texture = None if info is None else self._texture(info)
        else:
            info = glossy.get("diffuseTexture") or glossy.get("specularGlossinessTexture")
            factor, texture = self._base_of_glossy(glossy)
        color = np.ones(4)
        color[:len(factor)] = np.clip(np.asarray(factor, float) * 255, 0, 255).round() / 255
        color[:3] = srgb_from_linear(color[:3])
        # BLEND surfaces are drawn solid but for what is nearly invisible: leaves and hair are made
        # so.
        hole = {"MASK": float(source.get("alphaCutoff", 0.5)), "BLEND": 0.1}.get(
            source.get("alphaMode"), 0.0)
        material = Material(tuple(float(c) for c in color), texture, hole)
        return material, None if texture is None else self._coordinates(info, attributes, used)

    def _base_of_glossy(self, glossy):
        """Return base color factor and texture of a material with specular color and gloss."""
        from trimesh.visual.gloss import specular_to_pbr
        known = {name: np.array(glossy[name], float) if isinstance(glossy[name], list)
                 else float(glossy[name])
                 for name in ("diffuseFactor", "specularFactor", "glossinessFactor")
                 if name in glossy}
        for name in ("diffuseTexture", "specularGlossinessTexture"):
            if name in glossy:
                known[name] = Image.fromarray(self._texture(glossy[name]))
        base = specular_to_pbr(**known)
        texture = base.get("baseColorTexture")
        return (base.get("baseColorFactor", [1, 1, 1, 1]),
                None if texture is None else np.asarray(texture.convert("RGBA")))

    def _texture(self, info):
        """Return the picture of a texture, (H, W, 4) uint8. Raises MeshError."""
        texture = self.json["textures"][info["index"]]
        extensions = texture.get("extensions", {})
        number = next((extensions[name]["source"] for name in IMAGE_SOURCES
                       if "source" in extensions.get(name, {})), texture.get("source"))
        if number is None:
            names = ", ".join(extensions) or "no picture"
            raise MeshError(f"texture {info['index']} has {names} only, which is not read; export"
                            " it with PNG or JPEG textures")
        image = self.json["images"][number]
        name = f"{number} ({image.get('name') or image.get('uri', '')[:200] or 'embedded'})"
        if "bufferView" in image:
            data = bytes(self._view(image["bufferView"])[0])
        else:
            data = self._bytes_of(image["uri"])
        # The specification: what a picture says of its colors is not to be used.
        return self._textures.read(name, data, use_profile=False)

    def _coordinates(self, info, attributes, used):
        """Return a texture's coordinates (V, 2), transformed by KHR_texture_transform, v up."""
        change = info.get("extensions", {}).get("KHR_texture_transform", {})
        number = change.get("texCoord", info.get("texCoord", 0))
        name = f"TEXCOORD_{number}"
        if name not in attributes:
            log.warning("%s: has a texture and no %s: one color of it is taken for all",
                        one_line(str(self.path)), name)
            return np.float32([[0, 1]]).repeat(len(used), axis=0)
        uv = self._accessor(attributes[name])[used].astype(np.float32)
        if change:
            scaled = uv * np.float32(change.get("scale", (1, 1)))
            c, s = np.cos(change.get("rotation", 0.0)), np.sin(change.get("rotation", 0.0))
            uv = scaled @ np.float32([[c, -s], [s, c]]) + np.float32(change.get("offset", (0, 0)))
        sampler = self.json["textures"][info["index"]].get("sampler")
        if sampler is not None:
            sampler = self.json["samplers"][sampler]
            for axis, key in enumerate(("wrapS", "wrapT")):
                mode = sampler.get(key, REPEAT)
                if mode != REPEAT:
                    warn_of_edges(self.path, f"texture {info['index']}", uv[:, axis],
                                  "mirrored" if mode == MIRRORED else "stretched")
        uv[:, 1] = 1 - uv[:, 1]
        return uv

    # --- buffers --------------------------------------------------------------------------------

    def _accessor(self, number):
        """Return the values of an accessor, (N, width), floats if they are normalized."""
        accessor = self.json["accessors"][number]
        kind, width = np.dtype(KINDS[accessor["componentType"]]), WIDTHS[accessor["type"]]
        count, sparse = accessor["count"], accessor.get("sparse")
        if "bufferView" in accessor:
            values = self._values(accessor, kind, width, count)
        elif sparse and 0 <= count <= 3 * MAX_COPIED:
            values = np.zeros((count, width), kind)
        else:
            raise MeshError(f"accessor {number} has no data of its own, expected a bufferView;"
                            " export it without compression")
        if sparse:
            values, places = values.copy(), sparse["indices"]
            kind_of_place = np.dtype(KINDS[places["componentType"]])
            rows = self._values(places, kind_of_place, 1, sparse["count"])
            values[rows[:, 0]] = self._values(sparse["values"], kind, width, sparse["count"])
        if accessor.get("normalized") and kind.kind != "f":
            values = np.maximum(values / np.float32(np.iinfo(kind).max), -1)
        return values

    def _values(self, place, kind, width, count):
        """Return `count` rows of a buffer view from its offset. Raises ValueError past its end."""
        data, stride = self._view(place["bufferView"])
        row = kind.itemsize * width
        stride, offset = stride or row, place.get("byteOffset", 0)
        if count < 0 or offset < 0 or stride < row or (
                count and offset + (count - 1) * stride + row > len(data)):
            raise ValueError(f"{count} rows of {row} bytes go beyond their buffer")
        return np.ndarray((count, width), kind, data, offset, (stride, kind.itemsize))

    def _view(self, number):
        """Return the bytes of a buffer view and its stride, or None."""
        view = self.json["bufferViews"][number]
        for name in view.get("extensions", ()):
            raise MeshError(f"uses the extension {name}, which is not read; export it without"
                            " compression")
        buffer = self._buffer(view["buffer"])
        first, length = view.get("byteOffset", 0), view["byteLength"]
        if first < 0 or length < 0 or first + length > len(buffer):
            raise ValueError("a buffer view goes beyond its buffer")
        return buffer[first:first + length], view.get("byteStride")

    def _buffer(self, number):
        if number not in self._buffers:
            uri = self.json["buffers"][number].get("uri")
            data = self.binary if uri is None else self._bytes_of(uri)
            self._buffers[number] = memoryview(data)
        return self._buffers[number]

    def _bytes_of(self, uri):
        """Return the content of a data: URI or of a file next to the mesh. Raises MeshError."""
        if uri.startswith("data:"):
            return base64.b64decode(urllib.parse.unquote(uri.partition(",")[2]))
        if "://" in uri:
            raise MeshError(f"names {uri[:200]}, which is not fetched; put the file next to it")
        folder = self.path.parent
        try:
            file = find_file(folder, urllib.parse.unquote(uri))
        except MeshError:
            file = find_file(folder, uri)       # a name with a percent sign, not coded
        return file.read_bytes()


def _parts(data):
    """Return the JSON object and the binary chunk of a glTF file."""
    if data[:4] != b"glTF":
        return json.loads(data.decode("utf-8-sig")), b""
    version, _ = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise MeshError(f"found glTF {version}, expected 2; open and re-export it")
    length, kind = struct.unpack_from("<I4s", data, 12)
    if kind != b"JSON" or 20 + length > len(data):
        raise ValueError("its first chunk is no JSON, or cut off")
    header, binary = json.loads(data[20:20 + length]), b""
    if len(data) >= 28 + length:
        size, kind = struct.unpack_from("<I4s", data, 20 + length)
        if kind == b"BIN\0":
            binary = data[28 + length:28 + length + size]
    return header, binary


def _matrix(node):
    """Return a node's (4, 4) matrix to its parent."""
    from trimesh.transformations import quaternion_matrix  # half a second
    matrix = np.eye(4)
    if "matrix" in node:
        matrix = np.array(node["matrix"], float).reshape(4, 4).T
    if "translation" in node:
        translation = np.eye(4)
        translation[:3, 3] = node["translation"]
        matrix = matrix @ translation
    if "rotation" in node:
        x, y, z, w = node["rotation"]
        matrix = matrix @ quaternion_matrix([w, x, y, z])
    if "scale" in node:
        matrix = matrix @ np.diag([*node["scale"], 1.0])
    return matrix


def _triangles(corners, mode):
    """Return the triangles (F, 3) that a list of corners stands for."""
    if mode == TRIANGLES:
        return corners[:len(corners) // 3 * 3].reshape(-1, 3)
    if len(corners) < 3:
        return np.empty((0, 3), np.int64)
    if mode == FAN:
        first = np.full(len(corners) - 2, corners[0])
        return np.stack([first, corners[1:-1], corners[2:]], axis=-1)
    faces = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=-1)
    faces[1::2] = faces[1::2, ::-1]             # every second triangle of a strip turns round
    return faces
