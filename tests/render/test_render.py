"""The renderer against hand-computed pictures, the mesh loader against files written here, and render_orbits.py."""
import json

import numpy as np
import pytest
from PIL import Image
from support.commands import ending, load_tool

from sgm.geometry.mesh import (
    Material,
    Mesh,
    MeshError,
    crease_normals,
    linear_from_srgb,
    merge,
    srgb_from_linear,
)
from sgm.geometry.mesh_reader import load_mesh
from sgm.render import datasets
from sgm.render.framing import normalized, viewing_distance
from sgm.render.procedural import on_white, render_clip
from sgm.render.zbuffer import Lighting, render_geometry, render_views
from sgm.views.cameras import FOV_DEG, Orbit, camera_to_world, focal_length, rays

FLAT = Lighting(ambient=1, key=0, fill=0, sky=0)
FRONT = camera_to_world(0.0, 0.0, 2.0)
SIZE = 64
FOCAL = focal_length(SIZE)


def quad(corners, **more):
    return Mesh(np.array(corners, float), np.array([[0, 1, 2], [0, 2, 3]]), **more)


def upright(y, z, x=0.0, **more):
    """A rectangle of half sizes y, z in the plane x, square to the camera FRONT."""
    return quad([(x, -y, -z), (x, y, -z), (x, y, z), (x, -y, z)], **more)


def picture(mesh, size=SIZE, camera=FRONT, lighting=FLAT, supersample=2):
    return render_views(mesh, camera[None], size, FOV_DEG, supersample=supersample, lighting=lighting)[0]


render_orbits = load_tool("render_orbits")


def test_size_and_place_of_a_rectangle():
    half_y, half_z = 10 / FOCAL * 2, 6 / FOCAL * 2                   # 10 and 6 pixels at distance 2
    alpha = picture(upright(half_y, half_z))[..., 3]
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[26:38, 22:42] = 255
    assert (alpha == expected).all()


def test_axes_of_the_picture():
    right_top = quad([(0, 0.1, 0.1), (0, 0.3, 0.1), (0, 0.3, 0.3), (0, 0.1, 0.3)])     # +y is right, +z is up
    rows, cols = np.nonzero(picture(right_top)[..., 3])
    assert rows.max() < SIZE / 2 < cols.min()


def test_background_and_partial_coverage():
    image = picture(upright(10.5 / FOCAL * 2, 6 / FOCAL * 2, colors=np.full((4, 3), 0.6)))
    assert (image[0, 0] == (255, 255, 255, 0)).all()
    assert image[30, 30].tolist() == [153, 153, 153, 255]
    assert image[30, 21].tolist() == [153, 153, 153, 128]            # half covered: straight colour, half alpha


def test_supersamples_are_averaged_in_linear_light():
    black = upright(0.5, 0.5, colors=np.zeros((4, 3)))
    white = quad([(0.1, 0, -0.4), (0.1, 0.4, -0.4), (0.1, 0.4, 0.4), (0.1, 0, 0.4)])
    image = picture(merge([black, white]), size=SIZE + 1)             # odd: the edge y = 0 halves the middle column
    assert image[32, 30, 0] == 0 and image[32, 34, 0] == 255
    assert image[32, 32, 0] == 188                                    # srgb(0.5) = 0.735; averaging codes gives 128


@pytest.mark.parametrize("order", [1, -1])
def test_nearer_surface_hides_the_farther(order):
    red, blue = (upright(0.2, 0.2, x, colors=np.tile(c, (4, 1))) for x, c in ((0.3, (1, 0, 0)), (-0.3, (0, 0, 1))))
    assert picture(merge([red, blue][::order]))[32, 32].tolist() == [255, 0, 0, 255]


def test_depth_and_normals_facing_the_camera():
    for corners in ([(0, -1, -1), (0, 1, -1), (0, 1, 1), (0, -1, 1)], [(0, -1, 1), (0, 1, 1), (0, 1, -1), (0, -1, -1)]):
        depth, normals = render_geometry(quad(corners), FRONT, SIZE, FOV_DEG)
        np.testing.assert_allclose(depth, 2, atol=1e-6)               # z-depth, not the length of the ray
        np.testing.assert_allclose(normals, np.broadcast_to((1, 0, 0), normals.shape), atol=1e-6)


def test_perspective_correct_colour_of_a_slanted_surface():
    # x + z = 0: far at the top.  Red grows with z in space; the ray's own intersection tells the true value.
    mesh = quad([(0.4, -0.5, -0.4), (0.4, 0.5, -0.4), (-0.4, 0.5, 0.4), (-0.4, -0.5, 0.4)],
                colors=srgb_from_linear(np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]], float)))
    image = picture(mesh, supersample=1)
    origins, directions = rays(FRONT, SIZE, SIZE, FOCAL)
    along = -(origins[..., 0] + origins[..., 2]) / (directions[..., 0] + directions[..., 2])
    z = (origins + along[..., None] * directions)[..., 2]
    hit = image[..., 3] > 0
    assert hit.sum() > 500
    np.testing.assert_allclose(linear_from_srgb(image[hit][:, 0] / 255), (z[hit] + 0.4) / 0.8, atol=0.01)


def test_surface_through_the_camera_plane():
    floor = quad([(-50, -50, -0.3), (50, -50, -0.3), (50, 50, -0.3), (-50, 50, -0.3)])
    alpha = picture(floor)[..., 3]
    assert (alpha[36:] == 255).all() and (alpha[:32] == 0).all()
    behind = upright(0.5, 0.5, x=3.0)
    assert (picture(behind)[..., 3] == 0).all()


def test_no_cracks_between_triangles():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 12), np.linspace(-0.5, 0.5, 12), indexing="ij"), -1)
    grid[1:-1, 1:-1] += rng.uniform(-0.03, 0.03, (10, 10, 2))
    vertices = np.concatenate([rng.uniform(-0.01, 0.01, (144, 1)), grid.reshape(-1, 2)], 1)
    k = np.arange(144).reshape(12, 12)
    a, b, c, d = (s.reshape(-1) for s in (k[:-1, :-1], k[1:, :-1], k[1:, 1:], k[:-1, 1:]))
    mesh = Mesh(vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    alpha = picture(mesh, size=200)[..., 3]
    inside = alpha[40:160, 40:160]
    assert (inside == 255).all()


def test_texture_orientation_filter_and_factor():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0], pixels[0, 1], pixels[1, 0] = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)
    mesh = upright(0.4, 0.4, uv=np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float),
                   materials=(Material((1, 1, 1, 1), pixels),))
    image = picture(mesh, size=256)
    near = int(focal_length(256) * 0.2 / 2)                           # the centres of the four texels
    assert image[128 - near, 128 - near, :3].argmax() == 0            # v = 1 is the picture's top row
    assert image[128 - near, 128 + near, :3].argmax() == 1
    assert image[128 + near, 128 - near, :3].argmax() == 2
    middle = linear_from_srgb(image[128, 128, :3] / 255)
    np.testing.assert_allclose(middle, [0.25, 0.25, 0.25], atol=0.03)  # bilinear, in linear light
    mesh.materials = (Material((0.5, 1, 1, 1), pixels),)
    assert picture(mesh, size=256)[128 - near, 128 - near, 0] == pytest.approx(128, abs=3)


def test_masked_texture_makes_holes():
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[:, :2, 3] = 0
    uv = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float)
    front = upright(0.3, 0.3, 0.2, uv=uv, materials=(Material(texture=pixels, alpha_cutoff=0.5),))
    behind = upright(0.3, 0.3, 0.0, colors=np.tile((1, 0, 0), (4, 1)))
    image = picture(merge([front, behind]))
    assert image[32, 26, :3].tolist() == [255, 0, 0] and image[32, 38, :3].tolist() == [255, 255, 255]


def test_lambert_light_from_the_world():
    light = Lighting(ambient=0.2, key=0.5, key_direction=(1, 0, 0), fill=0, fill_direction=(0, 0, 1), sky=0)
    facing = picture(upright(0.2, 0.2), lighting=light)[32, 32, 0]
    assert linear_from_srgb(facing / 255) == pytest.approx(0.7, abs=0.005)
    tilted = quad([(0, -0.3, 0), (0.3, 0, 0), (0.3, 0, 0.3), (0, -0.3, 0.3)])        # normal (1, -1, 0) / sqrt 2
    value = picture(tilted, lighting=light)[30, 28, 0]
    assert linear_from_srgb(value / 255) == pytest.approx(0.2 + 0.5 * np.sqrt(0.5), abs=0.005)


def test_crease_normals_keep_edges_and_smooth_the_rest():
    def bent(degrees):
        a = np.radians(degrees)
        v = np.array([(0, 0, 0), (0, 1, 0), (-1, 0, 0), (np.cos(a), 0, -np.sin(a))])
        return crease_normals(v, np.array([[0, 1, 2], [0, 3, 1]]))
    sharp, smooth = bent(60), bent(30)
    np.testing.assert_allclose(sharp[0], np.tile((0, 0, 1), (3, 1)), atol=1e-6)
    np.testing.assert_allclose(smooth[0, 0], (np.sin(np.radians(15)), 0, np.cos(np.radians(15))), atol=1e-6)
    np.testing.assert_allclose(smooth[0, 2], (0, 0, 1), atol=1e-6)    # not on the edge
    assert len(Mesh(*_cube()).vertices) == 24


def _cube():
    v = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    f = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4),
         (1, 5, 7), (1, 7, 3)]
    return v, np.array(f)


def test_bad_arrays_are_named():
    with pytest.raises(MeshError, match="point cloud"):
        Mesh(np.zeros((3, 3)), np.zeros((0, 3), int))
    with pytest.raises(MeshError, match="name vertex 9"):
        Mesh(np.zeros((3, 3)), np.array([[0, 1, 9]]))
    with pytest.raises(MeshError, match="NaN"):
        Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))


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


def test_normalised_and_viewing_distance():
    vertices, faces = _cube()
    mesh = Mesh(vertices * (3, 1, 1) + (5, 6, 7), faces)
    box = normalized(mesh)
    np.testing.assert_allclose(box.vertices.max(0), (0.5, 1 / 6, 1 / 6), atol=1e-6)
    np.testing.assert_allclose(box.vertices.min(0), (-0.5, -1 / 6, -1 / 6), atol=1e-6)
    assert np.linalg.norm(normalized(mesh, "sphere").vertices, axis=1).max() == pytest.approx(0.5)
    orbit = Orbit.static(20.0)
    cube = normalized(Mesh(vertices, faces))
    distance = viewing_distance(cube, orbit)
    views = render_views(cube, orbit.poses(distance), SIZE, FOV_DEG)[..., 3] > 0
    rows, cols = np.nonzero(views.any(0))
    nearest_border = min(rows.min(), cols.min(), SIZE - 1 - rows.max(), SIZE - 1 - cols.max())
    assert distance > 2 and nearest_border == 1                       # 0.025 x 64 = 1.6 pixels of margin
    assert viewing_distance(normalized(mesh, "sphere"), orbit) == 2


PROCEDURAL = ["procedural", "--count", "3", "--size", "16", "--frames", "4", "--workers", "1", "--out"]


def test_folders_and_pack_agree_and_resume(tmp_path, capsys):
    folders, pack = tmp_path / "folders", tmp_path / "pack"
    assert render_orbits.run([*PROCEDURAL, str(folders)]) == 0
    assert render_orbits.run([*PROCEDURAL, str(pack), "--pack"]) == 0
    clips = np.load(pack / "clips.npy", mmap_mode="r")
    assert clips.shape == (3, 4, 16, 16, 3) and np.load(pack / "seeds.npy").tolist() == [0, 1, 2]
    for k in range(3):
        folder = folders / f"{k:07d}"
        views = np.stack([np.asarray(Image.open(folder / f"{v:03d}.png")) for v in range(4)])
        assert (on_white(views) == clips[k]).all()
        frames = json.loads((folder / "transforms.json").read_text())["frames"]
        np.testing.assert_allclose([f["elevation_deg"] for f in frames], np.load(pack / "elevations.npy")[k], atol=1e-5)
        np.testing.assert_allclose(np.load(pack / "azimuths.npy")[k], [90, 180, 270, 0])
    orbit = Orbit.static(float(np.load(pack / "elevations.npy")[1, 0]), 4)
    assert np.abs(render_clip(1, orbit, 16).astype(int) - clips[1]).max() <= 1
    elevations = np.load(pack / "elevations.npy")[:, 0]
    assert len(set(elevations)) == 3 and elevations.min() >= -5 and elevations.max() <= 30

    kept = (folders / "0000000" / "000.png").stat().st_mtime_ns
    (folders / "0000001" / "transforms.json").unlink()                # as if interrupted
    assert render_orbits.run([*PROCEDURAL, str(folders)]) == 0
    assert (folders / "0000001" / "transforms.json").exists()
    assert (folders / "0000000" / "000.png").stat().st_mtime_ns == kept
    capsys.readouterr()
    assert render_orbits.run([*PROCEDURAL, str(folders), "--supersample", "1"]) == 2
    message = capsys.readouterr().err
    assert "supersample 2" in message and "--overwrite" in message and message.count("\n") == 1
    assert render_orbits.run([*PROCEDURAL, str(folders), "--supersample", "1", "--overwrite"]) == 0


def test_packing_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert render_orbits.run([*PROCEDURAL, str(whole), "--pack"]) == 0
    monkeypatch.setattr(datasets, "PACK_BLOCK", 1)
    render, calls = datasets.render_clip, []

    def interrupted(*args, **more):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return render(*args, **more)
    monkeypatch.setattr(datasets, "render_clip", interrupted)
    assert render_orbits.run([*PROCEDURAL, str(broken), "--pack"]) == 130
    assert not broken.exists()
    assert render_orbits.run([*PROCEDURAL, str(broken), "--pack"]) == 0
    assert len(calls) == 4                                             # the first was kept
    assert (np.load(broken / "clips.npy") == np.load(whole / "clips.npy")).all()
    assert not (tmp_path / "broken.partial").exists()


def test_failed_meshes_are_listed(tmp_path, capsys):
    pytest.importorskip("trimesh")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tri.obj").write_text("v 0 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\n")
    (tmp_path / "in" / "bad.glb").write_bytes(b"junk")
    common = ["--out", str(tmp_path / "out"), "--size", "16", "--workers", "1", "--orbit", "dynamic"]
    assert render_orbits.run(["meshes", str(tmp_path / "in"), *common]) == 1
    assert (tmp_path / "out" / "tri" / "020.png").exists() and not (tmp_path / "out" / "bad").exists()
    assert (tmp_path / "out" / "failed.txt").read_text().startswith("bad\t")
    (tmp_path / "in" / "bad.glb").unlink()
    assert render_orbits.run(["meshes", str(tmp_path / "in"), *common]) == 0
    assert not (tmp_path / "out" / "failed.txt").exists()
    capsys.readouterr()


@pytest.mark.parametrize("options, said", [
    (["procedural", "--count", "0", "--out", "x"], "--count: found '0', expected a whole number from 1"),
    (["procedural", "--count", "1", "--elevation", "30", "-5", "--out", "x"], "--elevation is 30 -5"),
    (["meshes", "/nowhere", "--out", "x"], "/nowhere: no such file")])
def test_wrong_options(options, said, capsys):
    code, message = ending(render_orbits.run, options, capsys)
    assert code == 2 and said in message and message.count("\n") <= 1


def test_foreign_folder_is_not_deleted(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert render_orbits.run([*PROCEDURAL, str(tmp_path), "--overwrite"]) == 2
    assert render_orbits.run([*PROCEDURAL, str(tmp_path), "--overwrite", "--pack"]) == 2
    assert (tmp_path / "mine.txt").exists()
    assert "not made by this tool" in capsys.readouterr().err
