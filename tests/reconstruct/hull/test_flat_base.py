"""The prior of a flat base."""
import numpy as np
import trimesh
from support.shapes import ball, cylinder, views_of

from sgm.reconstruct.hull import flat_base, sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF
from sgm.views.cameras import Orbit


def test_base_of_a_cylinder_and_of_a_ball():
    views = views_of(cylinder, Orbit.static(15))
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, 96, HALF), HALF)
    depth = sdf_grid.vertices(96, HALF)[np.argwhere(sdf < 0)[:, 2].min()]
    assert depth < -0.44                        # the cone below a camera at 15 degrees
    height = flat_base.base_height(sdf, HALF, views)
    assert abs(height + 0.4) < 0.02
    assert flat_base.cut_below(sdf, HALF, height)[..., sdf_grid.vertices(96, HALF) < height].min() > 0
    around = views_of(ball(0.35), Orbit.sine(70, 0))
    sdf = visual_hull.closed(visual_hull.hull_sdf(around, 64, HALF), HALF)
    height = flat_base.base_height(sdf, HALF, around)
    assert height is None or height < -0.33


def test_dented_underside_is_flattened_to_the_rim():
    """A box whose underside bulges inwards: its hidden middle joins the rim, the walls and the top stay.

    Where the hull, here a cone with its tip below, is higher than the rim, the middle stops at the hull.
    """
    box = trimesh.creation.box((0.6, 0.6, 0.8)).subdivide().subdivide().subdivide()
    vertices, faces = np.array(box.vertices, np.float32), np.array(box.faces)
    inside = (vertices[:, 2] < -0.39) & (np.abs(vertices[:, :2]).max(1) < 0.29)
    vertices[inside, 2] += 0.015
    axis = sdf_grid.vertices(64, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    flat = flat_base.flattened(vertices, faces, -0.39, (np.abs(z) - 0.5).astype(np.float32), HALF)
    np.testing.assert_allclose(flat[inside, 2], -0.4, atol=1e-6)
    np.testing.assert_array_equal(flat[~inside], vertices[~inside])
    cone = (np.hypot(x, y) - (z + 0.55)).astype(np.float32)     # radius .15 at the rim
    flat = flat_base.flattened(vertices, faces, -0.39, cone, HALF)
    radius = np.hypot(*vertices[inside, :2].T)
    assert (flat[inside, 2][radius < 0.13] < -0.3999).all()
    assert (flat[inside, 2] == vertices[inside, 2])[radius > 0.17].all()
    np.testing.assert_array_equal(flat_base.flattened(vertices, faces, -0.6, cone, HALF), vertices)
