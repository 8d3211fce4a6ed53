"""Mesh files read back by trimesh and by our own reader: places, axes, colors, closedness; nothing half-written."""
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from support.coloring import textured_brick
from support.gltf_files import validated

from sgm.common.errors import InputError
from sgm.geometry import mesh_writer
from sgm.geometry.mesh_reader import load_mesh
from sgm.reconstruct.report import UNLIT
from sgm.render.zbuffer import render_views
from sgm.views.cameras import Orbit


@pytest.fixture(scope="module")
def mesh():
    return textured_brick()


@pytest.mark.parametrize("suffix", mesh_writer.SUFFIXES)
def test_name_that_is_no_text(suffix, mesh, tmp_path):
    path = tmp_path / (os.fsdecode(b"m\xff\xe9") + suffix)
    mesh_writer.save(mesh, path)
    assert len(load_mesh(path).faces) == len(mesh.faces)        # an OBJ finds its .mtl and picture
    if suffix == ".glb":
        data = path.read_bytes()
        header = json.loads(data[20:20 + struct.unpack_from("<I", data, 12)[0]])
        assert header["nodes"][0]["name"].encode("utf-8") == rb"m\udcff\udce9"


def as_set(vertices):
    return np.unique(np.round(np.asarray(vertices, np.float64), 5), axis=0)


def test_glb_is_y_up_and_faces_z(mesh, tmp_path):
    assert mesh_writer.save(mesh, tmp_path / "a.glb") == [tmp_path / "a.glb"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.glb"]
    read = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    # (x, y, z) -> (y, z, x): what faced +x faces +z, what was up is y
    np.testing.assert_allclose(as_set(read.vertices), as_set(mesh.vertices[:, [1, 2, 0]]), atol=1e-6)
    np.testing.assert_allclose(read.extents, (0.6, 0.4, 1.0), atol=1e-6)
    assert np.asarray(read.visual.material.baseColorTexture).shape[:2] == (128, 128)
    colors = trimesh.visual.color.uv_to_color(read.visual.uv, read.visual.material.baseColorTexture)[:, :3]
    np.testing.assert_allclose(colors / 255, read.vertices[:, [2, 0, 1]] / (1, 0.6, 0.4) + 0.5, atol=0.06)
    assert np.einsum("ij,ij->i", read.vertex_normals, read.vertices).min() > 0
    welded = trimesh.Trimesh(read.vertices, read.faces)
    assert welded.is_watertight and welded.volume == pytest.approx(0.24, rel=1e-5)


def test_glb_keeps_the_rules_of_gltf(mesh, tmp_path):
    mesh_writer.save(mesh, tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, kind) == (b"glTF", 2, b"JSON") and length == len(data) and size % 4 == 0
    header = json.loads(data[20:20 + size])
    binary, kind = struct.unpack("<I4s", data[20 + size:28 + size])
    assert kind == b"BIN\0" and 28 + size + binary == len(data) and binary == header["buffers"][0]["byteLength"]
    for view in header["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= binary
    blob = data[28 + size:]
    position = header["accessors"][header["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    start = header["bufferViews"][position["bufferView"]]["byteOffset"]
    places = np.frombuffer(blob, "<f4", position["count"] * 3, start).reshape(-1, 3)
    np.testing.assert_array_equal([places.min(0), places.max(0)], [position["min"], position["max"]])
    indices = header["accessors"][header["meshes"][0]["primitives"][0]["indices"]]
    start = header["bufferViews"][indices["bufferView"]]["byteOffset"]
    assert np.frombuffer(blob, "<u4", indices["count"], start).max() == position["count"] - 1
    image = header["bufferViews"][header["images"][0]["bufferView"]]["byteOffset"]
    assert blob[image:image + 4] == b"\x89PNG"


@pytest.mark.slow
def test_glb_passes_the_validator_of_khronos(mesh, tmp_path):
    mesh_writer.save(mesh, tmp_path / "a.glb")
    said = validated(tmp_path / "a.glb")
    assert said["numErrors"] == said["numWarnings"] == 0, said["messages"]
    # it does look: a vertex that no accessor holds
    data = bytearray((tmp_path / "a.glb").read_bytes())
    data[data.rindex(b"\x89PNG") - 4:data.rindex(b"\x89PNG")] = b"\xff\xff\xff\x7f"
    (tmp_path / "b.glb").write_bytes(data)
    assert validated(tmp_path / "b.glb")["numErrors"]


def test_obj_and_ply_stay_in_the_input_world(mesh, tmp_path):
    center, scale = np.array([100.0, -3, 7]), 0.25
    world = mesh.placed(scale, center)
    assert {p.name for p in mesh_writer.save(world, tmp_path / "m.obj")} == {"m.obj", "m.mtl", "m.png"}
    mesh_writer.save(world, tmp_path / "m.ply")
    obj = trimesh.load(tmp_path / "m.obj", force="mesh", process=False)
    ply = trimesh.load(tmp_path / "m.ply", process=False)
    for read in (obj, ply):
        np.testing.assert_allclose(as_set(read.vertices), as_set(mesh.vertices / scale + center), atol=2e-5)
    assert ply.is_watertight and len(ply.vertices) == len(mesh.vertices)        # whole at seams
    assert ply.volume == pytest.approx(0.24 / scale ** 3, rel=1e-4)
    # a corner's color is the mean over three sides of the brick; all sides have it
    wanted = mesh.vertices / (1, 0.6, 0.4) + 0.5
    np.testing.assert_allclose(ply.visual.vertex_colors[:, :3] / 255, wanted, atol=0.06)
    text = (tmp_path / "m.obj").read_text()
    assert "mtllib m.mtl" in text and text.count("\nv ") == len(mesh.vertices)
    assert "map_Kd m.png" in (tmp_path / "m.mtl").read_text()


def test_all_kinds_look_alike_in_our_own_reader(mesh, tmp_path):
    cameras = Orbit.static(25.0, 3).poses(2.5)
    wanted = render_views(mesh.drawable(), cameras, 96, 33.8, lighting=UNLIT)
    for name, limit in (("a.glb", 0.5), ("a.obj", 0.5), ("a.ply", 6)):            # ply: colors at vertices only
        mesh_writer.save(mesh, tmp_path / name)
        seen = render_views(load_mesh(tmp_path / name), cameras, 96, 33.8, lighting=UNLIT)
        assert (seen[..., 3] != wanted[..., 3]).mean() < 1e-3
        assert np.abs(seen[..., :3].astype(float) - wanted[..., :3]).mean() < limit, name


def test_nothing_is_left_half_written(mesh, tmp_path, monkeypatch):
    mesh_writer.save(mesh, tmp_path / "m.obj")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    write, sizes = Path.write_bytes, []

    def full(path, data):
        sizes.append(write(path, data))
        if len(sizes) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        mesh_writer.save(mesh.placed(2, (1, 1, 1)), tmp_path / "m.obj")
    assert len(sizes) == 3 and {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(InputError, match="kind .stl cannot be written; give one of .glb, .obj, .ply"):
        mesh_writer.save(mesh, tmp_path / "m.stl")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        mesh_writer.save(mesh, tmp_path / "folder.ply")


@pytest.mark.parametrize("up, axes", [(None, [0, 1, 2]), ("z", [0, 1, 2]), ("y", [1, 2, 0])])
def test_obj_has_normals_and_the_axis_that_is_asked_for(mesh, tmp_path, up, axes):
    mesh.placed(0.25, (100.0, -3, 7)).save(tmp_path / "m.obj", obj_up=up)
    read = trimesh.load(tmp_path / "m.obj", force="mesh", process=False)
    np.testing.assert_allclose(as_set(read.vertices), as_set((mesh.vertices * 4.0 + (100, -3, 7))[:, axes]), atol=2e-5)
    assert read.volume == pytest.approx(0.24 * 64, rel=1e-4)                # turned, not mirrored
    lines = [line.split() for line in (tmp_path / "m.obj").read_text().splitlines()]
    normals = np.array([line[1:] for line in lines if line[0] == "vn"], float)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-3)
    outwards = mesh.vertices[:, axes] / np.abs(mesh.vertices[:, axes]).max(0)
    assert np.einsum("ij,ij->i", normals, outwards).min() > 0.5
    assert all(corner.split("/")[0] == corner.split("/")[2] for line in lines if line[0] == "f" for corner in line[1:])
    mesh.save(tmp_path / "m.glb", obj_up=up)
    mesh.save(tmp_path / "m.ply", obj_up=up)
    for name, order in (("m.glb", [1, 2, 0]), ("m.ply", [0, 1, 2])):        # as ever
        read = trimesh.load(tmp_path / name, force="mesh", process=False)
        np.testing.assert_allclose(as_set(read.vertices), as_set(mesh.vertices[:, order]), atol=1e-6)


def test_obj_does_not_replace_a_picture_of_the_same_name(mesh, tmp_path):
    """cup.obj has its texture in cup.png, which is the picture of the cup."""
    for name in ("cup.png", "jar.mtl"):
        (tmp_path / name).write_text("mine")
    for name, taken in (("cup.obj", "cup.png"), ("jar.obj", "jar.mtl")):
        with pytest.raises(InputError, match=f"{taken}: is in the way, an .obj of that name would replace it"):
            mesh_writer.save(mesh, tmp_path / name)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"cup.png": "mine", "jar.mtl": "mine"}
    for _ in range(2):                          # an earlier mesh is replaced
        assert len(mesh_writer.save(mesh, tmp_path / "m.obj")) == 3
    with pytest.raises(InputError, match="^obj_up: found 'x', expected y or z"):
        mesh_writer.save(mesh, tmp_path / "m.obj", "x")


def test_glb_of_a_world_that_is_not_z_up(mesh, tmp_path):
    """A mesh turned back to a y-up world is that world's in OBJ, and the same as ever in GLB, textured and facing outwards."""
    upright = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])            # (x, y, z) -> (x, -z, y): y up to z up
    turned = mesh.turned_back(upright)
    np.testing.assert_allclose(turned.vertices, mesh.vertices[:, [0, 2, 1]] * (1, 1, -1), atol=1e-7)
    mesh_writer.save(turned, tmp_path / "t.glb")
    mesh_writer.save(mesh, tmp_path / "m.glb")
    a, b = (trimesh.load(tmp_path / name, force="mesh", process=False) for name in ("t.glb", "m.glb"))
    np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-6)
    np.testing.assert_allclose(a.vertex_normals, b.vertex_normals, atol=1e-5)
    for up in ("y", "z"):                                               # an OBJ that is asked for upright is so
        mesh_writer.save(turned, tmp_path / "t.obj", up)
        mesh_writer.save(mesh, tmp_path / "m.obj", up)
        assert (tmp_path / "t.obj").read_text().replace("-0.0000", "0.0000").split("vn")[1:] == (
            tmp_path / "m.obj").read_text().replace("-0.0000", "0.0000").split("vn")[1:]
        a, b = (trimesh.load(tmp_path / name, force="mesh", process=False) for name in ("t.obj", "m.obj"))
        np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-6)
    assert mesh.turned_back(np.eye(3)) is mesh


@pytest.mark.parametrize("flip", [1, -1])
def test_mesh_in_the_world_before_a_transform(mesh, tmp_path, flip):
    """nerfstudio's own transform, scaled; and a mirroring one: faces look outwards in each file."""
    applied = np.eye(4)
    applied[:3, :3] = 0.5 * np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, -flip]])
    applied[:3, 3] = 1, 2, 3
    before = mesh.undone(applied)
    np.testing.assert_allclose(before.vertices @ applied[:3, :3].T + applied[:3, 3], mesh.vertices, atol=1e-6)
    for name in ("a.obj", "a.ply", "a.glb"):
        mesh_writer.save(before, tmp_path / name)
        read = trimesh.load(tmp_path / name, force="mesh", process=False)
        assert trimesh.Trimesh(read.vertices, read.faces).volume == pytest.approx(8 * 0.24, rel=1e-4), name
    up = trimesh.load(tmp_path / "a.glb", force="mesh", process=False).vertices
    np.testing.assert_allclose(np.ptp(up, axis=0), (1.2, 0.8, 2.0), atol=1e-5)        # upright, as the mesh itself
