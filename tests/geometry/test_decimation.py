"""Decimation of solids whose shape is known."""
import numpy as np
import pytest
import trimesh
from support.solids import ball

from sgm.config.reconstruction import CleanSpec
from sgm.geometry import topology
from sgm.geometry.cleaning import clean
from sgm.geometry.decimation import decimate


@pytest.mark.parametrize("make, genus", [(lambda: ball(0.5, subdivisions=5), 0),
                                         (lambda: trimesh.creation.torus(0.35, 0.15, 96, 64), 1)], ids=["ball", "torus"])
def test_decimation_keeps_shape_handles_and_closedness(make, genus):
    solid = make()
    vertices, faces = clean(solid.vertices, solid.faces, CleanSpec(faces=1200))
    shape = topology.describe(vertices, faces)
    assert 1190 <= shape["faces"] <= 1200
    assert shape["watertight"] and shape["genus"] == genus and shape["components"] == 1
    assert shape["volume"] == pytest.approx(solid.volume, rel=0.01)
    assert vertices.dtype == np.float32 and faces.dtype == np.int32
    if genus:
        distance = np.abs(np.hypot(np.hypot(vertices[:, 0], vertices[:, 1]) - 0.35, vertices[:, 2]) - 0.15)
    else:
        distance = np.abs(np.linalg.norm(vertices, axis=1) - 0.5)
    assert distance.max() < 0.005
    outward = (topology.face_normals(vertices, faces) * topology.vertex_normals(vertices, faces)[faces[:, 0]]).sum(1)
    assert outward.min() > 0.3                                            # nothing folded over


def test_flat_parts_cost_nothing_and_edges_stay_sharp():
    box = trimesh.creation.box((1, 0.6, 0.4))
    for _ in range(4):
        box = box.subdivide()
    vertices, faces = decimate(box.vertices, box.faces, 12)
    assert len(faces) == 12 and len(vertices) == 8
    np.testing.assert_allclose(np.abs(vertices), np.tile((0.5, 0.3, 0.2), (8, 1)), atol=1e-3)
    assert topology.volume(vertices, faces) == pytest.approx(0.24, rel=3e-3)
    # fewer than a tetrahedron's faces cannot be had
    assert len(decimate(box.vertices, box.faces, 1)[1]) >= 4


def test_boundaries_hold():
    n = 21
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n))
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1)
    faces = np.concatenate([np.stack([a, a + 1, a + n + 1], 1), np.stack([a, a + n + 1, a + n], 1)])
    vertices, faces = decimate(np.stack([x, y, 0 * x], -1).reshape(-1, 3), faces, 2)
    assert len(faces) <= 20
    assert topology.areas(vertices, faces).sum() == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose([vertices.min(0), vertices.max(0)], [(0, 0, 0), (1, 1, 0)], atol=1e-3)
