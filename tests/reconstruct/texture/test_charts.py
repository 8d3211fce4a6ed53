"""Charts: a box becomes its six sides at their true sizes; parts of a chart hang together."""
import numpy as np
import pytest
import trimesh

from sgm.geometry.topology import areas, face_neighbors
from sgm.reconstruct.texture import charts


def test_a_box_becomes_its_sides():
    box = trimesh.creation.box((1, 0.2, 0.5)).subdivide()
    cut = charts.cut(box.vertices, box.faces)
    assert len(np.unique(cut.label)) == 6
    for label in range(6):
        of = cut.label == label
        assert len(np.unique(box.face_normals[of].round(6), axis=0)) == 1            # one side of the box
        corners = cut.corners[cut.face_corners[of]].reshape(-1, 2)
        normal = np.abs(box.face_normals[of][0]).argmax()
        sides = np.delete([1, 0.2, 0.5], normal)
        np.testing.assert_allclose(sorted(np.ptp(corners, axis=0)), sorted(sides), atol=1e-9)


@pytest.mark.parametrize("solid", [trimesh.creation.icosphere(3, 0.5), trimesh.creation.torus(0.35, 0.12, 40, 24)],
                         ids=["ball", "torus"])
def test_a_chart_hangs_together_and_is_stretched_within_bounds(solid):
    cut = charts.cut(solid.vertices, solid.faces)
    beyond = face_neighbors(solid.faces.astype(np.int32))
    for label in np.unique(cut.label):
        members = np.flatnonzero(cut.label == label)
        reached, new = {members[0]}, [members[0]]
        while new:
            new = [g for g in {g for f in new for g in beyond[f] if g >= 0} - reached if cut.label[g] == label]
            reached.update(new)
        assert len(reached) == len(members)
    flat = cut.corners[cut.face_corners]
    area = np.abs(np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])) / 2
    ratio = area / areas(solid.vertices, solid.faces)
    assert ratio.max() <= 1 + 1e-6 and ratio.min() >= charts.FACING / 2 - 1e-6
