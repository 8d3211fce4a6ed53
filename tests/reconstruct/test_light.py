"""The fitted irradiance against quadrature, light that is found where the truth is known, and its removal."""
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from support.colored_ball import RADIUS, ball_views

from sgm.config.reconstruction import TextureSpec
from sgm.geometry.mesh import linear_from_srgb, srgb_from_linear
from sgm.reconstruct import light, report
from sgm.reconstruct.texture import baking

SPHERE = light.fibonacci_sphere(2000)
SUN = light.Light(np.array([[0.6, 0.0, 0.8], [0.0, -1.0, 0.0]]), np.array([3.0, 6.0]), np.array([1.5, 0.8]))


def test_fibonacci_sphere():
    """Even: no point is much nearer to its neighbor than in a hexagonal grid of as many on the same area."""
    points = light.fibonacci_sphere(24)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(points.mean(0), 0, atol=0.01)
    apart = np.linalg.norm(points[:, None] - points, axis=-1) + 9 * np.eye(24)
    hexagonal = np.sqrt(4 * np.pi / 24 * 2 / np.sqrt(3))
    assert apart.min() > 0.75 * hexagonal and apart.min(0).max() < 1.1 * hexagonal


@pytest.mark.parametrize("sharpness", [2, 5, light.SHARPNESS, 30, 100])
def test_irradiance_against_quadrature(sharpness):
    """Sums over 20 000 directions; by energy the mean over all normals is a quarter of the lobe's integral by pi."""
    directions = light.fibonacci_sphere(20_000)
    radiance = np.exp(sharpness * (directions[:, 2] - 1))
    normals = light.fibonacci_sphere(200)
    exact = np.maximum(normals @ directions.T, 0) @ radiance * 4 / len(directions)
    found = light.irradiance(np.array([[0, 0, 1.0]]), np.array([sharpness]), normals)[:, 0]
    assert np.sqrt(np.square(found - exact).mean()) < 0.02 * np.sqrt(np.square(exact).mean())
    integral = 2 * np.pi / sharpness * (1 - np.exp(-2 * sharpness))
    assert found.mean() == pytest.approx(integral / (4 * np.pi), rel=0.013)
    away = found[normals[:, 2] < -0.5]                          # where a clipped cosine leaks 14 % of the peak
    assert sharpness < 12 or away.max() < 0.01 * found.max()


def test_even_light_is_one():
    shade = light.shading(light.even_light(), SPHERE)
    assert shade.mean() == pytest.approx(0.99, abs=0.01) and np.ptp(shade) < 0.03


def paints(hues, seed=0):
    return np.array(hues)[np.random.RandomState(seed).randint(len(hues), size=len(SPHERE))]


def off(found, true):
    """Root mean square of the logarithm between two shadings, up to a factor."""
    log = np.log(found / true)
    return np.sqrt(np.square(log - log.mean()).mean())


def test_light_on_patches_of_three_paints():
    true = 0.4 + light.shading(SUN, SPHERE)
    color = paints([(0.6, 0.1, 0.1), (0.1, 0.3, 0.6), (0.2, 0.2, 0.02)]) * true[:, None]
    found = light.fit(SPHERE, color, np.ones(len(SPHERE)))
    assert off(1, true) > 0.2 and off(light.shading(found, SPHERE), true) < 0.02


def test_another_paint_of_the_same_hue_is_no_light():
    """The half that faces down is painted four times darker, in gray as the other: no lobe follows it."""
    true = 0.4 + light.shading(SUN, SPHERE)
    paint = np.where(SPHERE[:, 2] < 0, 0.15, 0.6) * np.ones((3, 1))
    found = light.fit(SPHERE, paint.T * true[:, None], np.ones(len(SPHERE)))
    assert off(light.shading(found, SPHERE), true) < 0.1


@pytest.mark.parametrize("count", [len(SPHERE), light.FEWEST - 1, 0])
def test_no_differences_and_too_few_places_are_an_even_light(count):
    found = light.fit(SPHERE[:count], np.full((count, 3), 0.4), np.ones(count))
    assert off(light.shading(found, SPHERE), 1) < 0.01


@pytest.fixture(scope="module")
def ball():
    """Vertices, faces, and views of a red ball in the light of SUN and an even one."""
    vertices = RADIUS * light.fibonacci_sphere(500)
    faces = ConvexHull(vertices).simplices.astype(np.int32)
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    inwards = np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0
    faces[inwards] = faces[inwards, ::-1]
    views, normals = ball_views(), normals_of_ball()
    shade = 0.4 + 0.7 * light.shading(SUN, normals.reshape(-1, 3)).reshape(normals.shape[:3])
    return vertices, faces, replace(views, rgb=red(shade) * views.mask[..., None])


def normals_of_ball():
    """What `ball_views` shows as colors, (V, H, W, 3)."""
    views = ball_views()
    return (views.rgb - 0.5 * views.mask[..., None]) / 0.4


def red(shade):
    return srgb_from_linear(np.multiply.outer(shade, (0.5, 0.1, 0.1)))


def test_light_and_albedo_of_a_ball(ball):
    """Of the views alone the shading, up to a factor; then an albedo of one color, and lit again the views."""
    vertices, faces, views = ball
    found, facts = light.estimate(vertices, faces, views)
    true = 0.4 + 0.7 * light.shading(SUN, SPHERE)
    assert off(1, true) > 0.15 and off(light.shading(found, SPHERE), true) < 0.03
    assert len(facts["amplitudes"]) == light.LOBES and facts["shading"][0] < 1 < facts["shading"][1]
    spec = TextureSpec(size=64, refine=4)
    plain = baking.bake(vertices, faces, views, spec)
    mesh = light.lit(baking.bake(vertices, faces, light.removed(views, vertices, faces, found), spec), found)
    spreads = [linear_from_srgb(image / np.float32(255))[..., 0].std() for image in (plain.texture, mesh.albedo)]
    assert spreads[1] < 0.25 * spreads[0]
    seen = [report.view_metrics(each, views)["psnr_fg"] for each in (plain, mesh)]
    assert seen[1] > seen[0] - 0.2
    assert report.of_light(mesh, found, views).shape == (4 * 40, 3 * 40, 3)


def test_light_at_the_camera_is_hardly_any(ball):
    """What differs from view to view is not explained; the mean over the views is found, nearly even."""
    vertices, faces, views = ball
    eyes = views.c2w[:, :3, 3] / np.linalg.norm(views.c2w[:, :3, 3], axis=1, keepdims=True)
    shade = 0.4 + 0.6 * np.maximum((normals_of_ball() * eyes[:, None, None]).sum(-1), 0)
    found, _ = light.estimate(vertices, faces, replace(views, rgb=red(shade) * views.mask[..., None]))
    assert off(shade[views.mask > 0.5], 1) > 0.1 and off(light.shading(found, SPHERE), 1) < 0.05


def test_albedo_stays_below_white(ball):
    """What is bright in the views raises the light instead."""
    vertices, faces, views = ball
    white = replace(views, rgb=0.99 * views.mask[..., None] * np.ones(3, np.float32))
    found, _ = light.estimate(vertices, faces, white)
    level = linear_from_srgb(np.float32(0.99)) / light.shading(found, SPHERE)
    assert np.quantile(level, light.SHARE) == pytest.approx(light.BRIGHTEST, rel=0.02)
