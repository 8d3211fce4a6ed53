"""Atlas and baking: nothing overlaps, colors come back, hidden and unseen places take the right ones."""
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from sgm.common.errors import InputError
from sgm.config.reconstruction import TextureSpec
from sgm.geometry.mesh import Mesh
from sgm.geometry.topology import areas
from sgm.reconstruct.posed_views import PosedViews
from sgm.reconstruct.report import UNLIT, render_like, view_metrics
from sgm.reconstruct.texture import charts, visibility
from sgm.reconstruct.texture.atlas import unwrap
from sgm.reconstruct.texture.baking import bake, spread, texels
from sgm.render.zbuffer import render_views
from sgm.views.cameras import FOV_DEG, Orbit, camera_to_world, focal_length
from sgm.views.metrics import psnr

SIZE = 96
SMALL = TextureSpec(size=256, refine=4)


def color_of(points, fine=1):
    """A smooth color in [0, 1] of a place."""
    return 0.5 + 0.4 * np.sin(np.asarray(points) * (9, 11, 13) * fine + (0, 1, 2))


def colored(solid, fine=1):
    """The solid drawn with `color_of` at its (many) vertices."""
    return Mesh(solid.vertices, solid.faces, colors=color_of(solid.vertices, fine).astype(np.float32))


def views_of(mesh, cameras):
    images = render_views(mesh, cameras, SIZE, FOV_DEG, lighting=UNLIT).astype(np.float32) / 255
    images[..., :3] *= images[..., 3:]
    focal = focal_length(SIZE)
    return PosedViews(np.ascontiguousarray(images[..., :3]), np.ascontiguousarray(images[..., 3]), np.asarray(cameras), focal,
                 focal, SIZE / 2, SIZE / 2)


AROUND = np.concatenate([Orbit.static(*orbit).poses(2.2) for orbit in ((20.0, 8), (-40.0, 6), (70.0, 4))])


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


@pytest.fixture(scope="module")
def ball():
    return trimesh.creation.icosphere(5, 0.45)


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


def test_colors_come_back_in_views_not_baked_from(ball):
    views = views_of(colored(ball), AROUND)
    coarse = trimesh.creation.icosphere(4, 0.45)
    mesh = bake(coarse.vertices, coarse.faces, views, SMALL)
    assert mesh.coverage > 0.99 and mesh.texture.shape == (256, 256, 3)
    others = Orbit.static(0.0, 5).poses(2.2)
    wanted = render_views(colored(ball), others, SIZE, FOV_DEG, lighting=UNLIT)
    found = render_views(mesh.drawable(), others, SIZE, FOV_DEG, lighting=UNLIT)
    both = (wanted[..., 3] == 255) & (found[..., 3] == 255)
    assert psnr(wanted[..., :3] / 255, found[..., :3] / 255, both) > 38
    # every texel of the surface, seams included, has the color of its place
    face, weights = texels(mesh.uv, mesh.face_uv, 256)
    inside = face >= 0
    w = np.concatenate([1 - weights.sum(-1, keepdims=True), weights], -1)[inside][..., None]
    points = (mesh.vertices[mesh.faces][face[inside]] * w).sum(1)
    error = np.abs(mesh.texture[inside] / 255 - color_of(points))
    assert np.quantile(error, 0.99) < 0.05
    again = bake(coarse.vertices, coarse.faces, views, SMALL)
    np.testing.assert_array_equal(mesh.texture, again.texture)


def test_refining_brings_the_renders_nearer(ball):
    views = views_of(colored(ball, fine=4), AROUND[:8])
    scores = [view_metrics(bake(ball.vertices, ball.faces, views, replace(SMALL, refine=steps, size=128)), views)["psnr_fg"]
              for steps in (0, 4)]
    assert scores[1] > scores[0] + 0.5


def test_hidden_surface_takes_no_color_of_the_occluder():
    """A red plate before a green one, seen from the front only: the green one stays green, wherever it is seen."""
    far = trimesh.creation.box((0.05, 1.0, 1.0)).subdivide().subdivide().subdivide()
    near = trimesh.creation.box((0.05, 0.4, 0.4))
    near.vertices += (0.4, 0, 0)
    count = len(far.vertices)
    vertices, faces = np.concatenate([far.vertices, near.vertices]), np.concatenate([far.faces, near.faces + count])
    colors = np.where((np.arange(len(vertices)) < count)[:, None], (0.1, 0.8, 0.1), (0.9, 0.1, 0.1))
    cameras = camera_to_world(np.array([-25.0, 0, 25]), np.zeros(3), 2.5)
    views = views_of(Mesh(vertices, faces, colors=colors.astype(np.float32)), cameras)
    mesh = bake(vertices, faces, views, SMALL)
    face, _ = texels(mesh.uv, mesh.face_uv, 256)
    of_far = (face >= 0) & (face < len(far.faces))
    assert mesh.texture[of_far][:, 0].max() < 60                          # no red on it
    front = np.isin(face, len(far.faces) + np.flatnonzero(near.face_normals[:, 0] > 0.9))
    # of 28 pixels across, two on either side are mixed with what is behind: those texels are better than a mix, not pure
    assert np.quantile(mesh.texture[front][:, 1], 0.7) < 30 and mesh.texture[front][:, 1].max() < 160
    assert 0.2 < mesh.coverage < 0.7                                      # backs are not seen


def test_unseen_parts_take_the_colors_beside_them(ball):
    red = Mesh(ball.vertices, ball.faces, colors=np.tile(np.float32((0.8, 0.2, 0.1)), (len(ball.vertices), 1)))
    views = views_of(red, AROUND[:1])
    mesh = bake(ball.vertices, ball.faces, views, SMALL)
    assert 0.33 < mesh.coverage < 0.4                                    # one view sees (1 - 0.45 / 2.2) / 2 of it
    assert np.abs(mesh.texture.reshape(-1, 3).astype(float) - np.array((204, 51, 26))).max() < 8   # padding included


def test_spread_takes_the_nearest():
    image, known = np.zeros((5, 9, 3), np.float32), np.zeros((5, 9), bool)
    image[2, 1], image[2, 7] = 1, 2
    known[2, [1, 7]] = True
    out = spread(image, known)[..., 0]
    assert (out[:, :4] == 1).all() and (out[:, 5:] == 2).all()
    np.testing.assert_array_equal(spread(image, np.zeros_like(known)), image)


def test_sight_of_an_off_center_camera(ball):
    """Depth and place by the pinhole's own formula, for a picture that is neither square nor centerd."""
    c2w = camera_to_world(30.0, 20.0, 2.0)
    view = PosedViews(np.zeros((1, 40, 60, 3), np.float32), np.zeros((1, 40, 60), np.float32), c2w[None], 70.0, 90.0, 22.5, 25.0)
    sight = visibility.render_visibility(ball.vertices, ball.faces, view, 0)
    assert sight.face.shape == (40, 60)
    rows, columns = np.nonzero(sight.face >= 0)
    w = sight.weights[rows, columns]
    p = ball.vertices[ball.faces[sight.face[rows, columns]]]
    points = p[:, 0] * (1 - w.sum(1))[:, None] + p[:, 1] * w[:, :1] + p[:, 2] * w[:, 1:]
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    np.testing.assert_allclose(22.5 + 70 * local[:, 0] / -local[:, 2], columns + 0.5, atol=1e-3)
    np.testing.assert_allclose(25.0 - 90 * local[:, 1] / -local[:, 2], rows + 0.5, atol=1e-3)
    np.testing.assert_allclose(sight.depth[rows, columns], -local[:, 2], rtol=1e-5)
    assert (sight.nearest[rows, columns] <= sight.depth[rows, columns] + 1e-6).all()
    image = render_like(colored(ball), view)[0]
    assert image.shape == (40, 60, 4)
    sure = np.zeros((40, 60), bool)
    sure[rows, columns] = True
    assert ((image[..., 3] > 127) != sure).mean() < 0.02
    whole = image[rows, columns, 3] == 255
    error = np.abs(image[rows, columns, :3] / 255 - color_of(points))[whole]
    assert np.median(error) < 0.01 and error.max() < 0.1
