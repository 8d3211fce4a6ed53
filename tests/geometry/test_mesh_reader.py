"""Mesh files of every kind, written here and read."""
import logging
import os
import re
import subprocess

import numpy as np
import pytest
from PIL import Image
from support.drawing import picture

from sgm.geometry import texture_files
from sgm.geometry.mesh import MeshError, srgb_from_linear
from sgm.geometry.mesh_reader import load_mesh
from sgm.render.zbuffer import pack


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


# --- textures of OBJ and PLY --------------------------------------------------------------------

RED, GREEN = (250, 10, 20), (10, 200, 20)
SQUARE = ("mtllib a.mtl\nv 0 -0.5 -0.5\nv 0 0.5 -0.5\nv 0 0.5 0.5\nv 0 -0.5 0.5\n"
          "vt 0.1 0.1\nvt 0.4 0.1\nvt 0.4 0.9\nvt 0.1 0.9\nusemtl m\nf 1/1 2/2 3/3 4/4\n")


def halves(path, left=RED, right=GREEN):
    path.parent.mkdir(exist_ok=True)
    image = Image.new("RGB", (16, 8), right)
    image.paste(left, (0, 0, 8, 8))
    image.save(path, "PNG")


def textured(tmp_path, line, text=SQUARE, before=b"newmtl m\n"):
    """Load the square with a line in its .mtl file; return the color in its middle."""
    line = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "a.mtl").write_bytes(before + (line + b"\n" if line else b""))
    (tmp_path / "a.obj").write_text(text)
    mesh = load_mesh(tmp_path / "a.obj")
    (material,) = mesh.materials
    u, v = mesh.uv.mean(0) % 1
    return tuple(material.texture[int((1 - v) * 8), int(u * 16), :3].tolist())


@pytest.mark.parametrize("line", [
    "map_Kd wood.png", "map_Kd -s 1 1 1 wood.png", "map_Kd -blendu on -clamp off -bm 0.5 -texres 512 wood.png",
    "map_Kd -mm 0.000 1.0 -t 0 0 0 -cc off wood.png", "\tmap_Kd\twood.png", "map_kd   wood.png  ", "map_Kd wood grain.png",
    'map_Kd "wood grain.png"', "map_Kd -s 1 1 1 wood grain.png", "map_Kd textures/wood.png", "map_Kd textures\\wood.png",
    "map_Kd .\\Textures\\WOOD.PNG", "map_Kd WOOD.png", "map_Kd ../{}/wood.png", "Kd 0 0 0\nmap_Kd wood.png\r"])
def test_texture_of_an_obj(line, tmp_path, caplog):
    for name in ("wood.png", "wood grain.png", "textures/wood.png"):
        halves(tmp_path / name)
    assert textured(tmp_path, line.format(tmp_path.name)) == RED
    assert not caplog.records


@pytest.mark.parametrize("ending", ["tga", "bmp", "jpg", "tif", "gif"])
def test_textures_of_an_obj_in_other_formats(ending, tmp_path):
    halves(tmp_path / "a.png")
    Image.open(tmp_path / "a.png").save(tmp_path / f"wood.{ending}")
    assert np.abs(np.subtract(textured(tmp_path, f"map_Kd wood.{ending}"), RED)).max() < 12


@pytest.mark.parametrize("line", ["map_Kd -o 0.5 wood.png", "map_Kd -o 0.5 0 0 wood.png", "map_Kd -s -1 1 wood.png",
                                  "map_Kd -s 0.5 1 1 -o 0.5 0 0 wood.png"])
def test_offset_and_scale_of_a_texture(line, tmp_path):
    halves(tmp_path / "wood.png")
    assert textured(tmp_path, line) == GREEN


@pytest.mark.parametrize("line", ["map_Kd C:\\Users\\me\\wood.png", "map_Kd /home/me/Wood.png"])
def test_path_of_another_machine_is_warned_of(line, tmp_path, caplog):
    halves(tmp_path / "wood.png")
    assert textured(tmp_path, line) == RED
    assert ["is taken for it" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("coding", ["utf-8", "gb18030", "latin-1"])
def test_names_and_remarks_of_any_coding(coding, tmp_path):
    """Chinese letters in GBK may be UTF-8 by accident: the first letter's two bytes are."""
    name = "H\xf6lz.png" if coding == "latin-1" else "\u6728\u5934.png"
    halves(tmp_path / name)
    line = f"# \xe9\xe8\nmap_Kd {name}".encode(coding)
    text = SQUARE.replace("usemtl", "o H\xf6lzern\nusemtl")
    assert textured(tmp_path, line, text, "# Gr\xfc\xdfe\nnewmtl m\n".encode("latin-1")) == RED
    (tmp_path / "a.obj").write_bytes(text.encode("latin-1"))
    assert load_mesh(tmp_path / "a.obj").materials[0].texture is not None


def test_material_file_in_utf_16(tmp_path):
    halves(tmp_path / "\u6728.png")
    assert textured(tmp_path, "", SQUARE, "newmtl m\nmap_Kd \u6728.png\n".encode("utf-16")) == RED


def test_bytes_that_are_no_text_may_name_a_file(tmp_path):
    halves(tmp_path / "ok.png")
    os.rename(tmp_path / "ok.png", os.fsencode(tmp_path) + b"/\xff\xfe.png")
    assert textured(tmp_path, b"map_Kd \xff\xfe.png") == RED


@pytest.mark.parametrize("line, said", [
    ("map_Kd no.png", "names no.png, which is not in"), ("map_Kd a/b/no.png", "names a/b/no.png, which is not"),
    ("map_Kd WOOD.png", "wood.png"), (b"map_Kd no\0.png", "no file can have this name"),
    ("map_Kd " + "x" * 5000, "no file can have this name"), ("map_Kd pipe.png", "found a pipe"), ("map_Kd .", "which is not in"),
    ("map_Kd script.eps", "no image of a known kind"), ("map_Kd script.png", "no image of a known kind"),
    ("Kd red", "Kd is 'red'"), ("Kd 200 30 20", "Kd is '200 30 20', expected three numbers from 0 to 1")])
def test_texture_that_cannot_be_read_is_named(line, said, tmp_path, monkeypatch):
    halves(tmp_path / "wood.png")
    halves(tmp_path / "Wood.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("script.eps", "script.png"):
        (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr(subprocess, "Popen", None)      # Pillow would start Ghostscript
    with pytest.raises(MeshError, match=said) as error:
        textured(tmp_path, line)
    assert "a.obj" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) <= 2000


@pytest.mark.parametrize("line, said", [("map_Kd -mm 0.2 0.5 wood.png", "option -mm"), ("map_Kd -t 1 wood.png", "option -t"),
                                        ("map_Kd -imfchan r wood.png", "option -imfchan"),
                                        ("map_Kd wood.png\nmap_d other.png", "map_d"), ("map_Kd -s 4 -clamp on wood.png", "-clamp")])
def test_what_a_material_says_in_vain_is_warned_of(line, said, tmp_path, caplog):
    halves(tmp_path / "wood.png")
    textured(tmp_path, line)
    assert [said in record.message for record in caplog.records] == [True]


def test_holes_of_a_texture_with_alpha(tmp_path, caplog):
    halves(tmp_path / "wood.png")
    for line, cutoff in (("map_Kd wood.png\nmap_d wood.png", 0.5), ("map_Kd wood.png", 0)):
        textured(tmp_path, line)
        assert load_mesh(tmp_path / "a.obj").materials[0].alpha_cutoff == cutoff and not caplog.records


def test_texture_without_a_name_is_none(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 1 0 0\nmap_Kd\n")
    (tmp_path / "a.obj").write_text(SQUARE)
    assert load_mesh(tmp_path / "a.obj").materials[0].color[:3] == (1, 0, 0)


def test_material_files_and_materials_that_are_missing(tmp_path, caplog):
    (tmp_path / "a.obj").write_text(SQUARE)
    with pytest.raises(MeshError, match="names a.mtl, which is not in"):
        load_mesh(tmp_path / "a.obj")
    assert len(load_mesh(tmp_path / "a.obj", shape_only=True).faces) == 2
    (tmp_path / "a.mtl").write_text("newmtl other\nKd 1 0 0\n")
    load_mesh(tmp_path / "a.obj")
    assert ["uses the material m" in record.message for record in caplog.records] == [True]
    (tmp_path / "a.obj").write_text(SQUARE.replace("usemtl m\n", ""))       # says nothing of its materials
    load_mesh(tmp_path / "a.obj")
    assert len(caplog.records) == 1


def test_what_is_missing_can_be_drawn_without(tmp_path, caplog):
    """A texture's material in its Kd; without the material file in none."""
    (tmp_path / "a.obj").write_text(SQUARE)
    assert len(load_mesh(tmp_path / "a.obj", strict=False).faces) == 2
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 1 0 0\nmap_Kd gone.png\n")
    assert load_mesh(tmp_path / "a.obj", strict=False).materials[0].color[:3] == (1, 0, 0)
    halves(tmp_path / "gone.png")
    (tmp_path / "a.obj").write_text(re.sub("vt.*\n", "", re.sub("/[0-9]", "", SQUARE)))
    assert load_mesh(tmp_path / "a.obj", strict=False).materials[0].color[:3] == (1, 0, 0)
    with pytest.raises(MeshError, match="no coordinates for it"):
        load_mesh(tmp_path / "a.obj")
    said = [record.message for record in caplog.records]
    assert "no coordinates for it (vt); it is drawn without" in said.pop()
    assert "names a.mtl, which is not in" in said[0] and "names gone.png" in said[-1] and "it is drawn without" in said[-1]


def test_textures_are_read_once_and_bounded(tmp_path, monkeypatch):
    for name in ("wood.png", "other.png"):
        halves(tmp_path / name)                 # 128 pixels each
    (tmp_path / "a.mtl").write_text("".join(f"newmtl {k}\nmap_Kd {'other' if k == 4 else 'wood'}.png\n" for k in range(5)))
    (tmp_path / "a.obj").write_text(SQUARE.partition("usemtl")[0] + "".join(f"usemtl {k}\nf 1/1 2/2 3/3\n" for k in range(5)))
    mesh = load_mesh(tmp_path / "a.obj")
    assert len(mesh.materials) == 5 and len({id(material.texture) for material in mesh.materials}) == 2
    assert len(pack(mesh, 64).texels) == 1 + 2 * 128
    monkeypatch.setattr(texture_files, "MAX_TEXELS", 255)
    with pytest.raises(MeshError, match="other.png: with it they have over"):
        load_mesh(tmp_path / "a.obj")


def test_several_material_files(tmp_path):
    """Names with blanks; several of them on a line, and several lines."""
    for name, color in (("a b.mtl", "1 0 0"), ("c.mtl", "0 1 0"), ("d.mtl", "0 0 1")):
        (tmp_path / name).write_text(f"newmtl my {name[0]}\nKd {color}\n")
    (tmp_path / "a.obj").write_text("mtllib a b.mtl\nmtllib c.mtl d.mtl\nv 0 0 0\nv 0 1 0\nv 0 0 1\n" + "".join(
        f"usemtl my {name}\nf 1 2 3\n" for name in "acd"))
    assert {material.color[:3] for material in load_mesh(tmp_path / "a.obj").materials} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_indices_that_count_backwards(tmp_path):
    """They count from where the face stands in the file, not from its end."""
    first = "v 0 0 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\nf -3/-3 -2/-2 -1/-1\n"
    (tmp_path / "a.obj").write_text(first + "v 5 0 0\nv 5 1 0\nv 5 0 1\nf -3/1 -2/2 -1/3\n")
    mesh = load_mesh(tmp_path / "a.obj")
    assert sorted(mesh.vertices[mesh.faces].mean(1)[:, 0].tolist()) == [0, 5]


def test_faces_that_are_indented(tmp_path):
    (tmp_path / "a.obj").write_text("  v 0 0 0\n\tv 0 1 0\nv\t0 0 1\nv 0 1 1\n  f 1 2 3\nf\t2 3 4\n")
    assert len(load_mesh(tmp_path / "a.obj").faces) == 2


PLY = """ply
format ascii 1.0
comment TextureFile {}
element vertex 3
property float x
property float y
property float z
property float s
property float t
element face 1
property list uchar int vertex_indices
end_header
0 -1 -1 0.1 0.1
0 1 -1 0.4 0.1
0 0 1 0.4 0.9
3 0 1 2
"""


@pytest.mark.parametrize("name, said", [("wood.png", None), ("Textures\\WOOD.png", None), ("no.png", "names no.png, which"),
                                        ("script.png", "no image of a known kind"),
                                        ("wood.png\ncomment TextureFile b.png", "names 2 textures")])
def test_texture_of_a_ply(name, said, tmp_path):
    halves(tmp_path / "wood.png")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "a.ply").write_bytes(PLY.format(name + "\ncomment Gr\xfc\xdfe").encode("latin-1"))
    if said:
        with pytest.raises(MeshError, match=said):
            load_mesh(tmp_path / "a.ply")
    else:
        mesh = load_mesh(tmp_path / "a.ply")
        assert mesh.materials[0].texture[0, 0, :3].tolist() == list(RED)
        np.testing.assert_allclose(sorted(mesh.uv[:, 0]), [0.1, 0.4, 0.4], atol=1e-6)


@pytest.mark.parametrize("kind, values, red", [("uchar", "51 0 0", 0.2), ("float", "0.2 0 0", 0.2), ("ushort", "13107 0 0", None)])
def test_colors_of_a_ply(kind, values, red, tmp_path):
    lines = PLY.replace("property float s\nproperty float t\n", "".join(
        f"property {kind} {name}\n" for name in ("red", "green", "blue"))).replace("comment TextureFile {}\n", "")
    for place in ("0.1 0.1", "0.4 0.1", "0.4 0.9"):
        lines = lines.replace(f" {place}\n", f" {values}\n")
    (tmp_path / "a.ply").write_text(lines)
    if red is None:
        with pytest.raises(MeshError, match="colors of kind ushort, expected uchar or float"):
            load_mesh(tmp_path / "a.ply")
    else:
        np.testing.assert_allclose(load_mesh(tmp_path / "a.ply").colors, [[red, 0, 0]] * 3, atol=0.01)


@pytest.mark.parametrize("name, content", [
    ("a.off", "OFF\n# Gr\xfc\xdfe\n3 1 0\n0 0 0\n0 1 0\n0 0 1\n3 0 1 2\n"),
    ("a.stl", "solid Gr\xfc\xdfe\nfacet normal 1 0 0\nouter loop\nvertex 0 0 0\nvertex 0 1 0\nvertex 0 0 1\n"
              "endloop\nendfacet\nendsolid Gr\xfc\xdfe\n")])
def test_text_of_another_coding(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    assert len(load_mesh(tmp_path / name).faces) == 1


def test_colors_of_an_off_are_missed(tmp_path, caplog):
    (tmp_path / "a.off").write_text("COFF\n3 1 0\n0 0 0 255 0 0 255\n0 1 0 255 0 0 255\n0 0 1 255 0 0 255\n3 0 1 2\n")
    load_mesh(tmp_path / "a.off")
    assert [(record.levelno, "colors are not read" in record.message) for record in caplog.records] == [(logging.WARNING, True)]


def test_polygon_of_very_many_corners(tmp_path):
    """Its first corner is one of all triangles: comparing each with each would take minutes."""
    count = 6000
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    lines = [f"v 0 {np.cos(angle):.9f} {np.sin(angle):.9f}" for angle in angles]
    (tmp_path / "a.obj").write_text("\n".join([*lines, "f " + " ".join(map(str, range(1, count + 1)))]) + "\n")
    mesh = load_mesh(tmp_path / "a.obj")
    assert len(mesh.faces) == count - 2
    np.testing.assert_allclose(mesh.normals, [[1, 0, 0]] * len(mesh.normals), atol=1e-5)


def test_pipe_in_place_of_a_mesh(tmp_path):
    os.mkfifo(tmp_path / "a.glb")
    with pytest.raises(MeshError, match="a.glb: found a pipe"):
        load_mesh(tmp_path / "a.glb")


CORNERS = "v 0 0 0 1 0 0\nv 1 0 0 1 0 0\nv 0 1 0 1 0 0\nvt 0 0\nvt 1 0\nvt 0 1\n"


def test_colors_of_vertices_of_an_obj(tmp_path, caplog):
    """They are read beside texture coordinates, too; a material that is there counts, and a line says so."""
    (tmp_path / "a.obj").write_text(CORNERS + "f 1/1 2/2 3/3\n")
    mesh = load_mesh(tmp_path / "a.obj")
    np.testing.assert_array_equal(mesh.colors, [[1, 0, 0]] * 3)
    assert not caplog.records
    (tmp_path / "b.mtl").write_text("newmtl b\nKd 0 1 0\n")
    (tmp_path / "b.obj").write_text("mtllib b.mtl\n" + CORNERS + "usemtl b\nf 1/1 2/2 3/3\n")
    assert load_mesh(tmp_path / "b.obj").materials[0].color[:3] == (0, 1, 0) and "drawn in the materials" in caplog.text


def test_capitals_and_quotes_of_an_obj(tmp_path):
    (tmp_path / "b.mtl").write_text("NEWMTL b\nKD 0 1 0\n")
    (tmp_path / "b.obj").write_text('MTLLIB "b.mtl"\n' + "v 0 0 0\nv 1 0 0\nv 0 1 0\nUseMtl b\nf 1 2 3\n")
    assert load_mesh(tmp_path / "b.obj").materials[0].color[:3] == (0, 1, 0)


@pytest.mark.parametrize("face", ["f 0 1 2", "f 1 2 0", "f 1/0 2/1 0/2"])
def test_corners_that_count_from_zero(tmp_path, face):
    (tmp_path / "a.obj").write_text(CORNERS + face + "\n")
    with pytest.raises(MeshError, match="vertex 0, and OBJ counts from 1"):
        load_mesh(tmp_path / "a.obj")


def test_materials_without_a_file_are_warned_of(tmp_path, caplog):
    (tmp_path / "a.obj").write_text(CORNERS + "usemtl b\nf 1 2 3\n")
    load_mesh(tmp_path / "a.obj")
    assert "names no .mtl file" in caplog.text


def test_texture_is_as_stored_in_a_turned_tiff(tmp_path):
    levels = np.zeros((4, 4, 3), np.uint8)
    levels[:2] = 200
    Image.fromarray(levels).save(tmp_path / "t.tif", tiffinfo={274: 3})
    np.testing.assert_array_equal(texture_files.Textures().read(str(tmp_path / "t.tif"))[..., :3], levels)


def test_what_a_ply_says_in_vain(tmp_path, caplog):
    """A texture without coordinates is an error, colors by other names a warning; both were white before."""
    head = "ply\nformat ascii 1.0\n{}element vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    rest = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    Image.new("RGB", (4, 4)).save(tmp_path / "t.png")
    (tmp_path / "a.ply").write_text(head.format("comment TextureFile t.png\n") + rest + "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    with pytest.raises(MeshError, match="names a texture and has no coordinates"):
        load_mesh(tmp_path / "a.ply")
    assert len(load_mesh(tmp_path / "a.ply", shape_only=True).faces) == 1
    (tmp_path / "b.ply").write_text(head.format("") + "property float r\nproperty float g\nproperty float b\n" + rest
                                    + "0 0 0 1 0 0\n1 0 0 1 0 0\n0 1 0 1 0 0\n3 0 1 2\n")
    load_mesh(tmp_path / "b.ply")
    assert "its colors r, g, b are not read" in caplog.text
