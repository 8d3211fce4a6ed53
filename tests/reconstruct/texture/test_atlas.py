"""The atlas: nothing overlaps, texels know their places."""
import numpy as np
import pytest
import trimesh

from sgm.common.errors import InputError
from sgm.geometry.topology import areas
from sgm.reconstruct.texture import charts
from sgm.reconstruct.texture.atlas import unwrap
from sgm.reconstruct.texture.baking import texels


def strictly_inside(uv, face_uv, size):
    """In how many faces of an atlas each texel's middle lies, strictly -> (size, size) int."""
    covered = np.zeros((size, size), int)
    corners = np.stack([uv[:, 0], 1 - uv[:, 1]], 1)[face_uv].astype(np.float64) * size
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    for triangle in corners:
        sides = [(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
                 for a, b in zip(triangle, np.roll(triangle, -1, axis=0))]
        covered += (np.abs(np.sign(sides).sum(0)) == 3) & (np.abs(sides).min(0) > 1e-3)
    return covered


@pytest.mark.parametrize("solid", [trimesh.creation.icosphere(3, 0.5), trimesh.creation.torus(0.35, 0.12, 40, 24),
                                   trimesh.creation.box((1, 0.2, 0.5)).subdivide(),
                                   trimesh.creation.annulus(0.2, 0.3, 0.6).subdivide()],
                         ids=["ball", "torus", "box", "tube"])
def test_charts_lie_flat_without_overlap(solid):
    cut = charts.cut(solid.vertices, solid.faces)
    flat = cut.corners[cut.face_corners]
    turn = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    assert (turn > 0).all() or (turn < 0).all()                           # none is mirrored
    ratio = np.abs(turn) / 2 / areas(solid.vertices, solid.faces)
    assert ratio.max() <= 1 + 1e-6 and ratio.min() >= charts.FACING / 2 - 1e-6
    size, padding = 128, 2
    uv, face_uv = unwrap(solid.vertices, solid.faces, size, padding)
    assert uv.min() >= 0 and uv.max() <= 1
    covered = strictly_inside(uv, face_uv, size)
    assert covered.max() == 1
    assert (covered > 0).mean() > 0.35
    face, _ = texels(uv, face_uv, size)
    chart = np.where(face >= 0, cut.label[face], -1)
    for axis in (0, 1):                                                   # charts keep their distance
        for step in range(1, padding + 1):
            a, b = np.roll(chart, step, axis), chart
            inner = np.s_[step:] if axis == 0 else np.s_[:, step:]
            a, b = a[inner], b[inner]
            assert not ((a >= 0) & (b >= 0) & (a != b)).any()


def test_weights_give_texels(ball):
    weight = np.where(ball.triangles_center[:, 2] > 0, 1.0, 0.25)
    uv, face_uv = unwrap(ball.vertices, ball.faces, 256, 2, weight)
    flat = uv[face_uv].astype(np.float64)
    area = np.abs(np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]))
    top, bottom = (area[ball.face_normals[:, 2] * sign > 0.9].sum() for sign in (1, -1))
    assert top / bottom == pytest.approx(16, rel=0.05)


def test_too_many_charts_for_a_texture():
    rng = np.random.default_rng(0)
    loose = rng.random((3000, 3)) - 0.5
    faces = np.arange(3000).reshape(-1, 3)
    with pytest.raises(InputError, match="charts do not fit into 32 x 32"):
        unwrap(loose, faces, 32, 2)
