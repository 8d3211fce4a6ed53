"""The outer surface of a mesh: a box within a box counts as the outer box, an open one as what is seen."""
import json

import numpy as np
import pytest
from support.commands import load_tool

from sgm.geometry.mesh import Mesh, merge
from sgm.geometry.mesh_writer import ply
from sgm.geometry.metrics import sample_seen
from sgm.render.primitives import Paint, box
from sgm.render.visible import OuterSurface

evaluate = load_tool("evaluate")
PAINT = Paint({name: np.ones(3) for name in ("side", "end", "top", "accent")}, "plain")


def block(half):
    """Return a closed cube around the origin, of half that side."""
    mesh = box(half, half, 2 * half, PAINT)
    return mesh.transformed(np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -half], [0, 0, 0, 1]], float))


def arrays(mesh):
    return mesh.vertices, mesh.faces


@pytest.fixture(scope="module")
def nested():
    """Return a cube of side 0.6 within one of side 0.8, and its OuterSurface."""
    mesh = merge([block(0.4), block(0.3)])
    return mesh, OuterSurface(mesh, 128)


def test_points(nested):
    _, outer = nested
    points = np.array([[0.4, 0.1, 0.2], [0.3, 0.1, 0.2], [0.36, 0, 0], [-0.2, 0.1, -0.4], [0, 0, 0]])
    assert outer.sees(points).tolist() == [True, False, False, True, False]
    assert outer.holds(np.array([[0, 0, 0], [0.35, 0, 0], [0.41, 0, 0], [0.39, 0.39, 0.39], [0.7, 0.7, 0.7]])).tolist() == [
        True, True, False, True, False]


def test_samples_of_a_box_in_a_box(nested):
    """They lie on the outer box, as many as asked for."""
    mesh, outer = nested
    points, _ = sample_seen(*arrays(mesh), 2000, 0, outer.sees)
    assert len(points) == 2000 and np.abs(points).max(1) == pytest.approx(0.4, abs=1e-6)


@pytest.mark.slow
def test_box_in_a_box_is_a_box(nested, tmp_path):
    """By evaluate.py against the outer box alone: perfect, which without --visible it is not."""
    figures = {}
    for name, mesh in (("alone.ply", block(0.4)), ("nested.ply", nested[0])):
        (tmp_path / name).write_bytes(ply(*arrays(mesh), np.full((len(mesh.vertices), 3), 255.0)))
    for flags in ([], ["--visible"]):
        assert evaluate.run(["mesh", str(tmp_path / "alone.ply"), str(tmp_path / "nested.ply"), *flags,
                             "--json", str(tmp_path / "a.json")]) == 0
        figures[len(flags)] = json.loads((tmp_path / "a.json").read_text())
    assert figures[1]["gt_to_pred"] < 0.002 and figures[1]["fscore_0.01"] == 1 and figures[1]["iou"] == 1
    assert figures[1]["iou_mode"] == "visible" and figures[1]["vol_gt"] == pytest.approx(0.8 ** 3, rel=0.05)
    assert figures[0]["gt_to_pred"] > 0.02


def test_open_box():
    """A cup without a lid: its inside is seen, and is no volume."""
    mesh = block(0.4)
    lid = mesh.vertices[mesh.faces][..., 2].min(1) > 0.39
    outer = OuterSurface(Mesh(mesh.vertices, mesh.faces[~lid]), 128)
    assert outer.sees(np.array([[0, 0, -0.4], [0.4, 0, 0]])).all()
    assert not outer.holds(np.array([[0, 0, 0.3], [0, 0, -0.3]])).any()


def test_nothing_seen():
    with pytest.raises(ValueError, match="no camera"):
        sample_seen(*arrays(block(0.4)), 100, 0, lambda points: np.zeros(len(points), bool))
