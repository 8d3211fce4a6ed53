"""Topology of known solids."""
import numpy as np
import pytest
import trimesh

from sgm.geometry import topology


def test_topology_of_known_solids():
    torus = trimesh.creation.torus(0.3, 0.1, 48, 24)
    shape = topology.describe(torus.vertices, torus.faces)
    assert shape["watertight"] and shape["genus"] == 1 and shape["components"] == 1
    assert shape["volume"] == pytest.approx(2 * np.pi ** 2 * 0.3 * 0.1 ** 2, rel=0.02)
    assert shape["area"] == pytest.approx(4 * np.pi ** 2 * 0.3 * 0.1, rel=0.01)
    for scale in (1e-5, 1e5):                                             # in any units
        small = topology.describe(torus.vertices * scale, torus.faces)
        assert small["watertight"] and small["volume"] == pytest.approx(shape["volume"] * scale ** 3)
    box = trimesh.creation.box((1, 1, 1))
    corners = box.vertices[box.faces].reshape(-1, 3)                      # every triangle on its own: a file without welding
    opened = np.arange(36).reshape(-1, 3)[1:]
    shape = topology.describe(corners, opened)
    assert (shape["vertices"], shape["faces"], shape["boundary_edges"]) == (8, 11, 3) and not shape["watertight"]
    tail = np.concatenate([box.faces, [[0, 1, 8]]])
    assert topology.describe(np.vstack([box.vertices, [(5, 5, 5)]]), tail)["branching_edges"] == 1
    flipped = box.faces.copy()
    flipped[3] = flipped[3, ::-1]
    assert not topology.describe(box.vertices, flipped)["watertight"]     # its faces do not agree on the outside
    np.testing.assert_array_equal(topology.turned_alike(flipped), box.faces)
