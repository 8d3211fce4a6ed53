"""Size and distance at which an object fills its picture."""
import numpy as np
import pytest
from support.drawing import SIZE
from support.solids import cube_arrays

from sgm.geometry.mesh import Mesh
from sgm.render.framing import normalized, viewing_distance
from sgm.render.zbuffer import render_views
from sgm.views.cameras import FOV_DEG, Orbit


def test_normalised_and_viewing_distance():
    vertices, faces = cube_arrays()
    mesh = Mesh(vertices * (3, 1, 1) + (5, 6, 7), faces)
    box = normalized(mesh)
    np.testing.assert_allclose(box.vertices.max(0), (0.5, 1 / 6, 1 / 6), atol=1e-6)
    np.testing.assert_allclose(box.vertices.min(0), (-0.5, -1 / 6, -1 / 6), atol=1e-6)
    assert np.linalg.norm(normalized(mesh, "sphere").vertices, axis=1).max() == pytest.approx(0.5)
    orbit = Orbit.static(20.0)
    cube = normalized(Mesh(vertices, faces))
    distance = viewing_distance(cube, orbit)
    views = render_views(cube, orbit.poses(distance), SIZE, FOV_DEG)[..., 3] > 0
    rows, cols = np.nonzero(views.any(0))
    nearest_border = min(rows.min(), cols.min(), SIZE - 1 - rows.max(), SIZE - 1 - cols.max())
    assert distance > 2 and nearest_border == 1                       # 0.025 x 64 = 1.6 pixels of margin
    assert viewing_distance(normalized(mesh, "sphere"), orbit) == 2
