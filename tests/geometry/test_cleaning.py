"""Cleaning of meshes: what goes, what stays, which way faces look."""
import numpy as np
import pytest
import trimesh
from support.solids import ball

from sgm.common.errors import InputError
from sgm.config.reconstruction import CleanSpec
from sgm.geometry import topology
from sgm.geometry.cleaning import clean

KEEP = CleanSpec(faces=10 ** 6)


def joined(*parts):
    """One (vertices, faces) of several trimesh solids."""
    first = np.cumsum([0] + [len(p.vertices) for p in parts])
    return np.concatenate([p.vertices for p in parts]), np.concatenate([p.faces + k for p, k in zip(parts, first)])


def test_floaters_and_hidden_parts_go():
    void = ball(0.2)
    void.invert()                                                         # a bubble inside, its faces to its own middle
    body, part, floater, nested = ball(0.5), ball(0.25, (1, 0, 0)), ball(0.05, (0, 0.8, 0)), ball(0.15, (0.3, 0, 0))
    vertices, faces = clean(*joined(floater, void, body, nested, part), KEEP)
    shape = topology.describe(vertices, faces)
    assert shape["components"] == 2 and shape["watertight"]
    assert shape["volume"] == pytest.approx(body.volume + part.volume, rel=1e-5)
    alone = topology.describe(*clean(*joined(floater, body, part), CleanSpec(faces=10 ** 6, floaters=2)))
    assert alone["components"] == 1 and alone["volume"] == pytest.approx(body.volume, rel=1e-5)


def test_floaters_that_are_needed_stay():
    body, floater, other = ball(0.5), ball(0.05, (0, 0.8, 0)), ball(0.04, (0, 0, 0.8))

    def needed(vertices, faces, label, parts):
        assert len(parts) == 3 and parts[0] == label[-1]        # largest first
        return [part for part in parts if vertices[faces[label == part]][..., 1].min() > 0.7]

    shape = topology.describe(*clean(*joined(floater, other, body), KEEP, needed))
    assert shape["components"] == 2 and shape["volume"] == pytest.approx(body.volume + floater.volume, rel=1e-5)


def test_faces_are_turned_outwards():
    solid = trimesh.creation.torus(0.3, 0.1, 32, 16)
    rng = np.random.default_rng(0)
    flip = rng.random(len(solid.faces)) < 0.5
    mixed = np.where(flip[:, None], solid.faces[:, ::-1], solid.faces)
    for faces in (mixed, solid.faces[:, ::-1]):
        shape = topology.describe(*clean(solid.vertices, faces, KEEP))
        assert shape["watertight"] and shape["genus"] == 1
        assert shape["volume"] == pytest.approx(solid.volume, rel=1e-5)
    # an open bowl has no volume, yet its outside is known
    bowl = ball(0.5)
    lower = bowl.faces[bowl.triangles_center[:, 2] < 0.2]
    vertices, faces = clean(bowl.vertices, lower[:, ::-1], KEEP)
    outward = (topology.face_normals(vertices, faces) * vertices[faces].mean(1)).sum(1)
    assert (outward > 0).all()


def test_unusable_faces_go_and_the_rest_stays_closed():
    solid = ball(0.5)
    vertices = solid.vertices[solid.faces].reshape(-1, 3)                 # unwelded
    faces = np.arange(len(vertices)).reshape(-1, 3)
    vertices = np.vstack([vertices, [(np.nan, 0, 0)], [(9, 9, 9)]])
    faces = np.concatenate([faces, faces[:5], [[0, 0, 1], [0, 1, len(vertices) - 2], [3, 4, 3]]])
    vertices, faces = clean(vertices, faces, KEEP)
    assert np.isfinite(vertices).all() and len(vertices) == len(solid.vertices)
    shape = topology.describe(vertices, faces)
    assert shape["watertight"] and shape["faces"] == len(solid.faces)


def test_slivers_go_even_within_the_budget():
    solid = ball(0.5)
    corner = solid.faces[7, 0]
    # split a face at a point a hair from one of its corners
    point = solid.vertices[corner] + 1e-5 * (solid.triangles_center[7] - solid.vertices[corner])
    a, b, c = solid.faces[7]
    new = len(solid.vertices)
    faces = np.concatenate([np.delete(solid.faces, 7, 0), [[a, b, new], [b, c, new], [c, a, new]]])
    vertices, faces = clean(np.vstack([solid.vertices, point]), faces, KEEP)
    assert topology.describe(vertices, faces)["watertight"] and len(vertices) == len(solid.vertices)
    assert topology.heights(vertices, faces).min() > 0.01


@pytest.mark.parametrize("vertices, faces", [
    (np.zeros((0, 3)), np.zeros((0, 3), int)), (np.zeros((3, 3)), np.array([[0, 1, 2]])),
    (np.full((3, 3), np.nan), np.array([[0, 1, 2]])), (np.eye(3), np.array([[0, 1, 1]]))],
    ids=["empty", "one place", "nan", "twice"])
def test_nothing_to_clean_is_said(vertices, faces):
    with pytest.raises(InputError, match="no triangle with an area"):
        clean(vertices, faces, KEEP)
