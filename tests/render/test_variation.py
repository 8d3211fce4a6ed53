"""Varied forms of an object: what is done to its shape, its place and its colors."""
import numpy as np
import pytest

from sgm.geometry.mesh import Mesh, linear_from_srgb, srgb_from_linear
from sgm.render.variation import Variation, variation_of

CORNER = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], float), np.array([[0, 1, 2], [0, 3, 1]]))
PLAIN = Variation((1, 1, 1), False, 0, 0, 1)


def test_shape():
    """(1, 2, 3) stretched, mirrored, then a quarter turn: x goes to y, y to -x."""
    mesh = Variation((1.1, 0.9, 1.0), True, 90, 0, 1).of_mesh(CORNER)
    corners = np.unique(np.round(mesh.vertices.astype(float), 5) + 0.0, axis=0)
    assert corners.tolist() == [[0, 0, 0], [0, 0, 3], [0, 1.1, 0], [1.8, 0, 0]]


def test_mirroring_keeps_the_outside_outside():
    mesh = Variation((1, 1, 1), True, 30, 0, 1).of_mesh(CORNER)
    corners = mesh.vertices[mesh.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((flat * mesh.normals[mesh.faces].mean(1)).sum(1) > 0).all()


def test_colors():
    """A third of a turn takes red to green, green to blue; gray stays; what is not seen stays."""
    views = np.array([[255, 0, 0, 255], [0, 255, 0, 9], [90, 90, 90, 255], [255, 255, 255, 0], [10, 200, 60, 255]], np.uint8)
    turned = Variation((1, 1, 1), False, 0, 120, 1).of_colors(views)
    assert turned.tolist() == [[0, 255, 0, 255], [0, 0, 255, 9], [90, 90, 90, 255], [255, 255, 255, 0], [60, 10, 200, 255]]
    assert (PLAIN.of_colors(views) == views).all()
    darker = Variation((1, 1, 1), False, 0, 0, 0.5).of_colors(views)
    assert darker[2, 0] == pytest.approx(255 * srgb_from_linear(linear_from_srgb(90 / 255) / 2), abs=0.5)
    assert darker[3].tolist() == [255, 255, 255, 0] and darker[1, 3] == 9


def test_drawn_from_name_and_seed():
    drawn = [variation_of(f"chair-{k:02d}", 0) for k in range(200)]
    assert drawn[3] == variation_of("chair-03", 0) != variation_of("chair-03", 1) and len(set(drawn)) == 200
    stretch = np.array([each.stretch for each in drawn])
    assert 0.85 <= stretch.min() < 0.87 and 1.13 < stretch.max() <= 1.15
    assert 70 < sum(each.is_mirrored for each in drawn) < 130
    assert np.histogram([each.yaw for each in drawn], 8, (0, 360))[0].min() > 10
    assert max(abs(each.hue) for each in drawn) <= 30 and min(each.gain for each in drawn) >= 0.7
