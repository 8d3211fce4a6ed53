"""Measures of meshes against solids whose distances are known, and tools/evaluate.py."""
import json
from functools import partial

import numpy as np
import pytest
import trimesh
from PIL import Image
from support.commands import ending, load_tool
from support.paths import GOLDEN

from sgm.geometry import metrics, topology
from sgm.geometry.mesh_reader import load_mesh
from sgm.reconstruct import report
from sgm.render.zbuffer import render_views
from sgm.views.cameras import FOV_DEG, Orbit
from sgm.views.transforms import write_transforms

evaluate = load_tool("evaluate")


@pytest.fixture(scope="module")
def meshes():
    data = np.load(GOLDEN / "meshes.npz")
    return {name: (data[f"{name}_vertices"], data[f"{name}_faces"].astype(np.int32))
            for name in ("mug", "mug_hull", "panda", "panda_hull")}


@pytest.mark.parametrize("name", ["mug_truth", "mug_hull", "panda_truth", "panda_hull"])
def test_figures_of_the_evaluation_script(meshes, name):
    expected = json.loads((GOLDEN / "mesh_metrics.json").read_text())[name]
    truth = name.split("_")[0]
    ours = metrics.compare(meshes[name.removesuffix("_truth")], meshes[truth])
    for key in expected.keys() & ours.keys():
        if isinstance(expected[key], float):
            # the same samples: only rounding and, for the volumes, the ray caster differ
            limit = 1e-3 if key in ("iou", "vol_pred", "vol_gt") else 1e-9
            assert ours[key] == pytest.approx(expected[key], rel=limit), key
        else:
            assert ours[key] == expected[key], key
    assert {"chamfer_l1", "fscore_0.01", "normal_consistency", "iou", "iou_mode"} <= expected.keys() & ours.keys()


def test_samples_lie_uniformly_on_the_surface():
    vertices = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 5), (3, 0, 5), (0, 3, 5)], float)
    points, normals = metrics.sample(vertices, np.array([[0, 1, 2], [3, 5, 4]]), 20000, 0)
    large = points[:, 2] == 5
    assert large.mean() == pytest.approx(0.9, abs=0.01)                   # nine times the area
    np.testing.assert_allclose(points[large].mean(0), (1, 1, 5), atol=0.03)   # the centroid
    np.testing.assert_array_equal(normals, np.where(large[:, None], (0, 0, -1.0), (0, 0, 1.0)))


def test_distances_of_two_spheres():
    inner, outer = (trimesh.creation.icosphere(4, radius) for radius in (0.40, 0.43))
    m = metrics.compare((inner.vertices, inner.faces), (outer.vertices, outer.faces), dense=100_000)
    assert m["chamfer_l1"] == pytest.approx(0.06, rel=0.01)
    assert m["fscore_0.02"] == 0 and m["fscore_0.01"] == 0
    assert m["normal_consistency_signed"] > 0.999
    assert m["iou"] == pytest.approx((0.40 / 0.43) ** 3, rel=0.01) and m["iou_mode"] == "parity"
    inside_out = metrics.compare((inner.vertices, inner.faces[:, ::-1]), (inner.vertices, inner.faces), dense=20_000)
    assert inside_out["normal_consistency_signed"] < -0.999 and inside_out["normal_consistency"] > 0.999


def test_an_open_mesh_is_filled():
    ball = trimesh.creation.icosphere(4, 0.4)
    small = ball.faces[ball.triangles_center[:, 2] < 0.395]               # a hole of a few voxels at the top
    assert not topology.describe(ball.vertices, small)["watertight"]
    inside = metrics.inside_by_filling(*metrics.prepared(ball.vertices, small))
    # the surface's own voxels count as inside: half a voxel more all round
    assert inside.sum() / 64 ** 3 == pytest.approx(4 / 3 * np.pi * (0.4 + 0.5 / 64) ** 3, rel=0.03)


def test_protocol_of_the_authors(meshes):
    """Size and place do not count; distances are of vertices; open meshes have no IoU."""
    ball = trimesh.creation.icosphere(3, 0.5)
    vertices, faces = ball.vertices, ball.faces
    same = metrics.by_authors((vertices, faces), (3 * vertices + 7, faces))
    assert same["chamfer"] == pytest.approx(0, abs=1e-12) and same["iou"] == 1
    flat = metrics.by_authors((vertices * (1, 1, 0.5), faces), (vertices, faces))
    k = np.arange(-32, 32) / 32
    x, y, z = np.meshgrid(k, k, k, indexing="ij")
    expected = (x**2 + y**2 + 4 * z**2 < 0.25).sum() / (x**2 + y**2 + z**2 < 0.25).sum()
    assert flat["iou"] == pytest.approx(expected, rel=0.02)
    # a box has its corners only: each is a quarter away from the other box's, there and back
    tall, low = (trimesh.creation.box((1, 1, height)) for height in (1, 0.5))
    assert metrics.by_authors((tall.vertices, tall.faces), (low.vertices, low.faces))["chamfer"] == pytest.approx(0.25)
    assert metrics.by_authors((vertices, faces[1:]), (vertices, faces))["iou"] is None
    # what mesh2sdf 1.1.0 gave for these two, as the authors use it
    assert metrics.by_authors(meshes["panda_hull"], meshes["panda"])["iou"] == pytest.approx(0.8324084, abs=1e-6)


def test_command_with_the_up_axis(meshes, tmp_path, capsys, monkeypatch):
    quick = partial(metrics.compare, samples=2000, dense=20000)
    monkeypatch.setattr(metrics, "compare", quick)
    vertices, faces = meshes["panda"]
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "truth.ply")
    trimesh.Trimesh(vertices[:, [1, 2, 0]], faces, process=False).export(tmp_path / "turned.ply")
    trimesh.Trimesh(vertices[:, [1, 2, 0]], faces, process=False).export(tmp_path / "turned.glb")
    for name, options in (("turned.ply", ["--up", "y"]), ("turned.glb", []), ("turned.glb", ["--up", "y"])):
        out = tmp_path / "figures.json"
        assert evaluate.run(["mesh", str(tmp_path / name), str(tmp_path / "truth.ply"), *options, "--json", str(out)]) == 0
        figures = json.loads(out.read_text())
        assert figures["chamfer_l1"] < 0.015 and figures["iou"] > 0.999 and figures["pred_watertight"]
        assert figures["by_authors"]["chamfer"] < 1e-6 and figures["by_authors"]["iou"] > 0.999
    said = capsys.readouterr().out
    assert "By the protocol of SV3D's authors, not to be compared" in said and "Chamfer, of vertices       0.0000" in said
    assert evaluate.run(["mesh", str(tmp_path / "turned.ply"), str(tmp_path / "truth.ply")]) == 0
    assert "is --up right" in capsys.readouterr().out


def test_command_with_views_that_were_held_back(tmp_path, capsys, monkeypatch):
    """The views are of the mesh itself, except the last, which is not counted; a smaller mesh has smaller outlines."""
    monkeypatch.setattr(metrics, "compare", partial(metrics.compare, samples=500, dense=5000))
    colors = np.random.RandomState(0).randint(0, 255, (8, 3))
    for name, size in (("box.ply", 1.0), ("small.ply", 0.8)):
        box = trimesh.creation.box(size * np.array((0.6, 0.5, 0.4)))
        box.visual.vertex_colors = colors
        box.export(tmp_path / name)
    orbit, folder = Orbit.static(20, 5), tmp_path / "views"
    views = render_views(load_mesh(tmp_path / "box.ply"), orbit.poses(2.0), 64, FOV_DEG, lighting=report.UNLIT)
    views[-1] = np.roll(views[-1], 12, axis=1)
    folder.mkdir()
    for k, view in enumerate(views):
        Image.fromarray(view).save(folder / f"{k:03d}.png")
    write_transforms(folder, orbit, 64)
    found = {}
    for name in ("box.ply", "small.ply"):
        argv = ["mesh", tmp_path / name, tmp_path / "box.ply", "--views", folder, "--json", tmp_path / "found.json"]
        assert evaluate.run([str(a) for a in argv]) == 0
        found[name] = json.loads((tmp_path / "found.json").read_text())["views"]
    assert found["box.ply"]["psnr_fg"] > 40 and found["box.ply"]["iou"] == 1 and 0.5 < found["small.ply"]["iou"] < 0.8
    assert "silhouette IoU 1.000" in capsys.readouterr().out
    code, line = ending(evaluate.run, ["mesh", tmp_path / "box.ply", tmp_path / "box.ply", "--views", tmp_path], capsys)
    assert code == 2 and "transforms.json" in line


@pytest.mark.parametrize("name, content, said", [
    ("none.ply", None, "no such file"), ("a.fbx", b"x", "kind .fbx"), ("junk.ply", b"junk", "cannot be read"),
    ("points.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no triangles"),
    ("line.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no triangle with an area"),
    ("nan.obj", b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "nan.obj")])
def test_bad_meshes_are_one_line(tmp_path, capsys, name, content, said):
    trimesh.creation.box().export(tmp_path / "good.ply")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for pair in ((name, "good.ply"), ("good.ply", name)):
        code, line = ending(evaluate.run, ["mesh", *(tmp_path / p for p in pair)], capsys)
        assert code == 2 and name in line and said in line
