"""The outer surface of a mesh: a box within a box counts as the outer box, an open one as what is seen."""
import numpy as np
import pytest

from sgm.geometry.mesh import Mesh, merge
from sgm.geometry.metrics import compare, sample_seen
from sgm.render.primitives import Paint, box
from sgm.render.visible import OuterSurface

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


@pytest.mark.slow
def test_box_in_a_box(nested):
    """Its samples lie on the outer box; against the outer box alone it is perfect, which it is not without the cameras."""
    mesh, outer = nested
    points, _ = sample_seen(*arrays(mesh), 2000, 0, outer.sees)
    assert len(points) == 2000 and np.abs(points).max(1) == pytest.approx(0.4, abs=1e-6)
    alone = block(0.4)
    figures = compare(arrays(alone), arrays(mesh), 500, 20_000, outer=(OuterSurface(alone, 128), outer))
    assert figures["gt_to_pred"] < 0.008 and figures["fscore_0.02"] > 0.99 and figures["iou"] == 1
    assert figures["iou_mode"] == "visible" and figures["vol_gt"] == pytest.approx(0.8 ** 3, rel=0.05)
    assert compare(arrays(alone), arrays(mesh), 500, 20_000)["gt_to_pred"] > 0.02


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
