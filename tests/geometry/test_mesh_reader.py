"""Mesh files of every kind, written here and read."""
import numpy as np
import pytest
from PIL import Image
from support.drawing import picture

from sgm.geometry.mesh import MeshError, srgb_from_linear
from sgm.geometry.mesh_reader import load_mesh


def test_glb_with_nodes_materials_and_up_axis(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    scene = trimesh.Scene()
    box = trimesh.creation.box((1, 2, 3))                             # y-up file: x right, y up, z to the front
    box.visual = trimesh.visual.TextureVisuals(material=trimesh.visual.material.PBRMaterial(
        baseColorFactor=[55, 255, 255, 255]))
    scene.add_geometry(box, transform=trimesh.transformations.translation_matrix((10, 0, 0)))
    ball = trimesh.creation.icosphere(1)
    uv = np.zeros((len(ball.vertices), 2))
    ball.visual = trimesh.visual.TextureVisuals(uv, material=trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (4, 4), (9, 8, 7))))
    scene.add_geometry(ball)
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb")
    assert len(mesh.materials) == 2
    plain_index = [m.texture is None for m in mesh.materials].index(True)
    boxed = mesh.vertices[mesh.faces[mesh.face_material == plain_index].reshape(-1)]
    np.testing.assert_allclose(boxed.min(0), (-1.5, 9.5, -1), atol=1e-5)   # (x, y, z) of the file -> (z, x, y)
    np.testing.assert_allclose(boxed.max(0), (1.5, 10.5, 1), atol=1e-5)
    coded = float(srgb_from_linear(np.float32(55 / 255)))
    assert mesh.materials[plain_index].color[0] == pytest.approx(coded, abs=1e-4)
    assert next(m for m in mesh.materials if m.texture is not None).texture[0, 0].tolist() == [9, 8, 7, 255]
    as_stored = load_mesh(tmp_path / "two.glb", up="z")
    np.testing.assert_allclose(as_stored.vertices.max(0), (10.5, 1, 1.5), atol=1e-5)


def test_obj_and_ply_colours(tmp_path):
    pytest.importorskip("trimesh")
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")
    (tmp_path / "a.obj").write_text("mtllib a.mtl\nv 0 -0.3 -0.3\nv 0 0.3 -0.3\nv 0 0.3 0.3\nv 0 -0.3 0.3\n"
                                    "usemtl red\nf 1 2 3\nusemtl blue\nf 1 3 4\n")
    image = picture(load_mesh(tmp_path / "a.obj"))
    assert image[36, 38, :3].tolist() == [255, 0, 0] and image[28, 26, :3].tolist() == [0, 0, 255]
    (tmp_path / "a.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n0 -1 -1 0 128 0\n0 1 -1 0 128 0\n0 0 1 0 128 0\n3 0 1 2\n")
    assert picture(load_mesh(tmp_path / "a.ply"))[34, 32, :3].tolist() == [0, 128, 0]


@pytest.mark.parametrize("name, content, said", [
    ("no.glb", None, "no such file"), ("a.fbx", b"x", "kind .fbx"), ("bad.glb", b"junk", "cannot be read"),
    ("empty.obj", b"v 0 0 0\n", "no triangles")])
def test_bad_files_are_named_in_one_line(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshError, match=said) as error:
        load_mesh(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)
