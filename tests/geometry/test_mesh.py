"""Meshes as arrays: normals at creases, and wrong arrays."""
import numpy as np
import pytest
from support.solids import cube_arrays

from sgm.geometry.mesh import Mesh, MeshError, crease_normals


def test_crease_normals_keep_edges_and_smooth_the_rest():
    def bent(degrees):
        a = np.radians(degrees)
        v = np.array([(0, 0, 0), (0, 1, 0), (-1, 0, 0), (np.cos(a), 0, -np.sin(a))])
        return crease_normals(v, np.array([[0, 1, 2], [0, 3, 1]]))
    sharp, smooth = bent(60), bent(30)
    np.testing.assert_allclose(sharp[0], np.tile((0, 0, 1), (3, 1)), atol=1e-6)
    np.testing.assert_allclose(smooth[0, 0], (np.sin(np.radians(15)), 0, np.cos(np.radians(15))), atol=1e-6)
    np.testing.assert_allclose(smooth[0, 2], (0, 0, 1), atol=1e-6)    # not on the edge
    assert len(Mesh(*cube_arrays()).vertices) == 24


def test_bad_arrays_are_named():
    with pytest.raises(MeshError, match="point cloud"):
        Mesh(np.zeros((3, 3)), np.zeros((0, 3), int))
    with pytest.raises(MeshError, match="name vertex 9"):
        Mesh(np.zeros((3, 3)), np.array([[0, 1, 9]]))
    with pytest.raises(MeshError, match="NaN"):
        Mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))
