"""glTF files: what changes how the rest is to be read is applied, or refused by name."""
import base64
import json
import struct

import numpy as np
import pytest
from PIL import Image
from support.gltf_files import BLUE, CORNERS, LEFT, RED, TWO_TRIANGLES, picture, square

from sgm.geometry import gltf_reader
from sgm.geometry.mesh import MeshError, srgb_from_linear
from sgm.geometry.mesh_reader import load_mesh
from sgm.render.zbuffer import _texel

RIGHT = LEFT + np.float32([0.5, 0])


def loaded(tmp_path, data, name="a.glb", **options):
    (tmp_path / name).write_bytes(data)
    return load_mesh(tmp_path / name, **options)


def middle(mesh):
    """The texture's color in the middle of the mesh's texture coordinates."""
    u, v = mesh.uv.mean(axis=0)
    texture = mesh.materials[0].texture
    height, width = texture.shape[:2]
    texels = texture.reshape(-1, 4).astype(np.float32)
    return [round(level) for level in _texel.py_func(texels, 0, width, height, float(u), float(v))[:3]]


def transform(**values):
    return {"extensions": {"KHR_texture_transform": values}}


def require(name):
    def change(header):
        header["extensionsUsed"] = header["extensionsRequired"] = [name]
    return change


@pytest.mark.parametrize("options, color", [
    ({}, RED), ({"info": transform(offset=[0.5, 0])}, BLUE), ({"info": transform(offset=[0.5, 0]),
                                                               "change": require("KHR_texture_transform")}, BLUE),
    ({"info": transform(scale=[-1, 1])}, BLUE), ({"info": transform(rotation=np.pi)}, BLUE),
    ({"info": transform(rotation=np.pi, offset=[0.5, 0])}, RED),
    ({"info": {"texCoord": 1}, "arrays": {"TEXCOORD_1": RIGHT}}, BLUE),
    ({"info": {"texCoord": 0, **transform(texCoord=1)}, "arrays": {"TEXCOORD_1": RIGHT}}, BLUE),
    ({"info": {"texCoord": 1}, "arrays": {"TEXCOORD_0": None, "TEXCOORD_1": RIGHT}}, BLUE),
    ({"arrays": {"TEXCOORD_0": np.uint16(RIGHT * 65535)}}, BLUE), ({"arrays": {"TEXCOORD_0": np.uint8(RIGHT * 255)}}, BLUE)])
def test_texture_is_read_where_the_file_says(options, color, tmp_path):
    mesh = loaded(tmp_path, square(**options))
    assert middle(mesh) == color
    assert mesh.materials[0].texture.shape == (8, 16, 4)


def test_texture_turns_after_it_is_scaled(tmp_path):
    """Khronos: offset times rotation times scale, counter-clockwise as seen with v down."""
    info = transform(scale=[2, 4], rotation=np.pi / 2, offset=[0.25, 0.125])
    mesh = loaded(tmp_path, square(info=info))
    u, v = LEFT.T * [[2], [4]]
    expected = np.stack([v + 0.25, 1 - (-u + 0.125)], -1)
    order = [np.abs(mesh.vertices[:, [1, 2, 0]] - corner).sum(1).argmin() for corner in CORNERS]
    np.testing.assert_allclose(mesh.uv[order], expected, atol=1e-5)


def gray_sixteen_bits():
    import io
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("image, color", [(gray_sixteen_bits(), [156] * 3), (picture(format="WEBP", lossless=True), RED)])
def test_textures_of_other_kinds(image, color, tmp_path):
    assert middle(loaded(tmp_path, square(image=image))) == color


def test_webp_extension(tmp_path):
    def change(header):
        require("EXT_texture_webp")(header)
        header["textures"] = [{"extensions": {"EXT_texture_webp": {"source": 0}}}]
    assert middle(loaded(tmp_path, square(change, image=picture(format="WEBP", lossless=True)))) == RED


def test_fallback_of_an_optional_extension(tmp_path):
    def change(header):
        header["extensionsUsed"] = ["KHR_texture_basisu"]
        header["textures"][0]["extensions"] = {"KHR_texture_basisu": {"source": 1}}
    assert middle(loaded(tmp_path, square(change))) == RED


def only_ktx2(header):
    header["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    header["images"][0]["mimeType"] = "image/ktx2"


def draco(header):
    primitive = header["meshes"][0]["primitives"][0]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    del header["accessors"][0]["bufferView"]


def meshopt(header):
    header["bufferViews"][0]["extensions"] = {"EXT_meshopt_compression": {"buffer": 0}}


@pytest.mark.parametrize("change, said", [
    *[(require(name), f"requires the extension {name}") for name in (
        "KHR_texture_basisu", "KHR_draco_mesh_compression", "EXT_meshopt_compression", "MSFT_texture_dds",
        "EXT_mesh_gpu_instancing", "VENDOR_new")],
    (only_ktx2, "has KHR_texture_basisu only"), (draco, "KHR_draco_mesh_compression"), (meshopt, "EXT_meshopt_compression"),
    (lambda h: h["nodes"].append({"children": [0]}) or h["scenes"][0]["nodes"].append(1), "two parents"),
    (lambda h: h["nodes"][0].update(children=[0]), "two parents"),
    (lambda h: h["images"][0].clear() or h["images"][0].update(uri="https://x.org/a.png"), "is not fetched"),
    (lambda h: h["images"][0].clear() or h["images"][0].update(uri="no%20such.png"), "names no%20such.png, which is not in"),
    (lambda h: h["asset"].update(version="1.0"), "found glTF 1.0")])
def test_what_is_not_read_is_refused_by_name(change, said, tmp_path):
    with pytest.raises(MeshError, match=said) as error:
        loaded(tmp_path, square(change))
    assert "a.glb: " in str(error.value)


@pytest.mark.parametrize("name", ["KHR_materials_unlit", "KHR_lights_punctual", "KHR_mesh_quantization"])
def test_what_changes_nothing_is_read(name, tmp_path, caplog):
    assert middle(loaded(tmp_path, square(require(name)))) == RED
    assert not caplog.records


@pytest.mark.parametrize("change, said", [
    (lambda h: h.update(extensionsUsed=["EXT_mesh_gpu_instancing"]), "its copies are not drawn"),
    (lambda h: h["nodes"][0].update(skin=0), "a skeleton"),
    (lambda h: h["meshes"][0].update(weights=[0.5]), "morph targets"),
    (lambda h: h.update(samplers=[{"wrapS": 33071}], textures=[{"source": 0, "sampler": 0}])
     or h["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"].update(transform(offset=[3, 0])), "stretched beyond")])
def test_what_would_look_otherwise_is_warned_of(change, said, tmp_path, caplog):
    loaded(tmp_path, square(change))
    assert [said in record.message for record in caplog.records] == [True]


def moved(header):
    header["scenes"][0]["nodes"] = [1]
    header["nodes"] = [{"mesh": 0, "translation": [0, 0, 5], "scale": [2, 2, 2]},
                       {"children": [0, 2], "rotation": [0, 0, np.sqrt(0.5), np.sqrt(0.5)], "translation": [10, 0, 0]},
                       {"mesh": 0, "scale": [0, 1, 1]}]


def test_nodes_place_their_parts(tmp_path):
    """A part of no size is hidden."""
    mesh = loaded(tmp_path, square(moved), up="z")
    assert len(mesh.faces) == 2
    np.testing.assert_allclose(mesh.vertices.min(0), [9, -1, 5], atol=1e-6)
    np.testing.assert_allclose(mesh.vertices.max(0), [11, 1, 5], atol=1e-6)


@pytest.mark.parametrize("mode, indices", [(5, [1, 2, 0, 3]), (6, [0, 1, 2, 3]), (4, [0, 1, 2, 0, 2, 3])])
def test_triangles_of_every_mode_face_the_same_way(mode, indices, tmp_path):
    def change(header):
        header["meshes"][0]["primitives"][0]["mode"] = mode
    mesh = loaded(tmp_path, square(change, {"indices": np.uint8(indices)}), up="z")
    assert len(mesh.faces) == 2 and (mesh.normals[:, 2] > 0.99).all()
    areas = np.cross(*np.diff(mesh.vertices[mesh.faces], axis=1).transpose(1, 0, 2))[:, 2] / 2
    np.testing.assert_allclose(areas, 0.5)


def test_quantized_positions(tmp_path):
    mesh = loaded(tmp_path, square(require("KHR_mesh_quantization"), {"POSITION": np.int16(CORNERS * 32767)}), up="z")
    np.testing.assert_allclose(np.abs(mesh.vertices[:, :2]), 0.5, atol=1e-4)


def test_sparse_positions(tmp_path):
    """The second corner is moved by a sparse accessor."""
    def change(header):
        header["accessors"][0]["sparse"] = {"count": 1, "indices": {"bufferView": 3, "componentType": 5121},
                                            "values": {"bufferView": 4}}
    mesh = loaded(tmp_path, square(change, {"_AT": np.uint8([1]), "_TO": np.float32([[3, 4, 0]])}), up="z")
    assert (mesh.vertices == [3, 4, 0]).all(1).any() and not (mesh.vertices == [0.5, -0.5, 0]).all(1).any()


@pytest.mark.parametrize("kind, expected", [(np.uint8, 51 / 255), (np.uint16, srgb_from_linear(0.2)),
                                            (np.float32, srgb_from_linear(0.2))])
def test_vertex_colors_of_every_kind(kind, expected, tmp_path):
    full = 1 if kind is np.float32 else np.iinfo(kind).max
    colors = np.tile(np.asarray(0.2 * full, kind), (4, 4))
    mesh = loaded(tmp_path, square(lambda h: h["meshes"][0]["primitives"][0].pop("material"), {"COLOR_0": colors}))
    np.testing.assert_allclose(mesh.colors, expected, atol=1e-4)


def test_gltf_with_files_of_odd_names(tmp_path):
    data = square()
    length = struct.unpack_from("<I", data, 12)[0]
    header, binary = json.loads(data[20:20 + length]), data[28 + length:]
    header["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(binary).decode()
    header["images"] = [{"uri": "Bilder\\Gr%C3%BCn%20rot.PNG"}]
    (tmp_path / "bilder").mkdir()
    (tmp_path / "bilder" / "Grün rot.png").write_bytes(picture())
    assert middle(loaded(tmp_path, json.dumps(header).encode(), "a.gltf")) == RED


def copies(count):
    def change(header):
        header["nodes"] = [{"mesh": 0}] * count
        header["scenes"][0]["nodes"] = list(range(count))
    return change


def repeated(count):
    def change(header):
        header["meshes"][0]["primitives"] *= count
    return change


def huge(header):
    header["accessors"][2]["count"] = 3 * 10 ** 9


@pytest.mark.parametrize("change, limit, value, said", [
    (copies(40), "MAX_COPIED", 77, "draws 78 triangles"), (repeated(40), "MAX_REPEATED", -9999, "draws 80 triangles"),
    (huge, "MAX_COPIED", 0, "draws 1000000000 triangles")])
def test_small_files_that_draw_too_much_are_refused(change, limit, value, said, tmp_path, monkeypatch):
    if change is not huge:
        assert len(loaded(tmp_path, square(change)).faces) == 80
    monkeypatch.setattr(gltf_reader, limit, value)
    with pytest.raises(MeshError, match=said):
        loaded(tmp_path, square(change))


def test_shape_alone_needs_no_texture(tmp_path):
    assert len(loaded(tmp_path, square(only_ktx2), shape_only=True).faces) == len(TWO_TRIANGLES) // 3
