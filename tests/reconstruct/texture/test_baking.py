"""Baking: colors come back, hidden and unseen places take the right ones."""
from dataclasses import replace

import numpy as np
import trimesh
from support.coloring import color_of, colored

from sgm.config.reconstruction import TextureSpec
from sgm.geometry.mesh import Mesh
from sgm.reconstruct.posed_views import PosedViews
from sgm.reconstruct.report import UNLIT, view_metrics
from sgm.reconstruct.texture.baking import bake, spread, texels
from sgm.render.zbuffer import render_views
from sgm.views.cameras import FOV_DEG, Orbit, camera_to_world, focal_length
from sgm.views.metrics import psnr

SIZE = 96
SMALL = TextureSpec(size=256, refine=4)


def views_of(mesh, cameras):
    images = render_views(mesh, cameras, SIZE, FOV_DEG, lighting=UNLIT).astype(np.float32) / 255
    images[..., :3] *= images[..., 3:]
    focal = focal_length(SIZE)
    return PosedViews(np.ascontiguousarray(images[..., :3]), np.ascontiguousarray(images[..., 3]), np.asarray(cameras), focal,
                 focal, SIZE / 2, SIZE / 2)


AROUND = np.concatenate([Orbit.static(*orbit).poses(2.2) for orbit in ((20.0, 8), (-40.0, 6), (70.0, 4))])


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


def test_unknown_pixels_lend_no_color_and_are_not_compared(ball):
    """Half of every other picture is painted over: with that unknown, the colors are those of the other views."""
    ball = trimesh.creation.icosphere(3, 0.45)
    views = views_of(colored(ball), AROUND[:8])
    known = np.ones(views.mask.shape, bool)
    known[::2, :, :SIZE // 2] = False
    rgb = np.where(known[..., None], views.rgb, views.mask[..., None] * np.float32([1, 0, 1]))
    hidden = replace(views, rgb=rgb).ignoring(known)
    small = replace(SMALL, size=128)
    meshes = [bake(ball.vertices, ball.faces, v, small) for v in (hidden, replace(views, rgb=rgb))]
    scores = [view_metrics(mesh, views)["psnr_fg"] for mesh in meshes]
    assert scores[0] > 28 and scores[1] < scores[0] - 6, scores
    found = view_metrics(meshes[0], hidden)
    assert found["psnr_fg"] > 28 and found["iou"] > 0.97, found


def test_what_no_view_sees_is_as_imagined(ball):
    """A gray ball seen from the front, imagined red all around: the back is red, the front stays gray."""
    front, around = camera_to_world(np.array([-30.0, 0, 30]), np.zeros(3), 2.2), Orbit.static(0.0, 6).poses(2.2)
    gray, red = (Mesh(ball.vertices, ball.faces, colors=np.tile(np.float32(color), (len(ball.vertices), 1)))
                 for color in ((0.5, 0.5, 0.5), (0.9, 0.1, 0.1)))
    mesh = bake(ball.vertices, ball.faces, views_of(gray, front), SMALL, imagined=views_of(red, around))
    seen = render_views(mesh.drawable(), camera_to_world(np.array([0.0, 180]), np.zeros(2), 2.2), SIZE, FOV_DEG, lighting=UNLIT)
    middle = np.s_[40:56, 40:56, :3]
    np.testing.assert_allclose(seen[0][middle], 128, atol=6)
    np.testing.assert_allclose(seen[1][middle], np.broadcast_to([230, 26, 26], (16, 16, 3)), atol=16)
