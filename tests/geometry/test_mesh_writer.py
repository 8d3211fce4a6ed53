"""Mesh files read back by trimesh and by our own reader: places, axes, colors, closedness; nothing half-written."""
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from sgm.common.errors import InputError
from sgm.geometry import mesh_writer, topology
from sgm.geometry.mesh_reader import load_mesh
from sgm.geometry.textured_mesh import TexturedMesh
from sgm.reconstruct.report import UNLIT, facts, turntable, write_turntable
from sgm.reconstruct.texture.atlas import unwrap
from sgm.reconstruct.texture.baking import spread, texels
from sgm.render.zbuffer import render_views
from sgm.views.cameras import Orbit


@pytest.fixture(scope="module")
def mesh():
    """A closed brick in the world, whose texture tells the place: red grows with x, green with y, blue with z."""
    box = trimesh.creation.box((1.0, 0.6, 0.4)).subdivide().subdivide()
    vertices = box.vertices.astype(np.float32)
    uv, face_uv = unwrap(vertices, box.faces, 128, 2)
    face, weights = texels(uv, face_uv, 128)
    inside = face >= 0
    w = np.concatenate([1 - weights.sum(-1, keepdims=True), weights], -1)[inside][..., None]
    image = np.zeros((128, 128, 3), np.float32)
    image[inside] = ((vertices[box.faces] / (1.0, 0.6, 0.4) + 0.5)[face[inside]] * w).sum(1)
    image = np.round(spread(image, inside) * 255).astype(np.uint8)
    return TexturedMesh(vertices, box.faces.astype(np.int32), uv, face_uv, image)


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


def test_turntable(mesh, tmp_path):
    frames = turntable(mesh, frames=8, size=48)
    assert frames.shape == (8, 48, 96, 3) and frames.dtype == np.uint8
    both = [frames[..., :48, :], frames[..., 48:, :]]
    assert all((side != 255).any(-1).mean() > 0.05 for side in both)
    assert (both[0].max(-1) != both[0].min(-1)).any() and (both[1].max(-1) == both[1].min(-1)).all()   # colors, and clay
    files = write_turntable(tmp_path, frames)
    assert {f.name for f in files} == {"turntable.mp4", "turntable.gif"} == {p.name for p in tmp_path.iterdir()}
    figures = facts(mesh)
    assert figures["watertight"] and figures["boundary_edges"] == 0 and figures["texture_coverage"] == 1
    assert figures["volume"] == pytest.approx(0.24, rel=1e-4) and figures["faces"] == 192
    assert topology.describe(mesh.vertices, mesh.faces)["genus"] == 0
