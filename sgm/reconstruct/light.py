"""Light: how much of the views' brightness is the light's, and how much the surface's own color.

The light is white, fixed in the world and far away: 24 spherical Gaussians in even directions, as
in SV3D (arXiv 2403.12008, appendix E). What falls on a surface depends on its normal alone, there
are no shadows. A matt surface shows its albedo, its own color, times the shading, the irradiance by
pi; both in linear light.

SV3D learns albedo and light along with the surface. Here the light is found afterwards, from the
colors that the views show at the mesh's vertices: places of the same hue have the same albedo, most
of them, so a difference of brightness between two is the light's, unless it is so large that it
must be another paint. A light from all sides alike is assumed where that tells nothing.
"""
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sgm.geometry.mesh import linear_from_srgb, srgb_from_linear
from sgm.geometry.topology import areas, vertex_normals
from sgm.reconstruct.texture import baking, visibility

LOBES = 24
# of every lobe: at it the sum of all lobes is nearly even (SV3D's code starts there)
SHARPNESS = 12.23
BEND = 0.36                 # of the fitted curve, see `irradiance`

PAIRS = 10_000              # of vertices that are compared
HUE = 0.04                  # distance of r, g, b by their sum at which two hues are hardly the same
NOISE = 0.01                # added to r + g + b before it is a divisor
# Differences of log brightness from which on it is another paint, in turn, and the rounds of each
PAINTS, ROUNDS = (0.4, 0.2, 0.1), 6
EVEN = 0.003                # weight of the wish that light comes from all sides alike
FEWEST = 50                 # vertices that tell of the light, at least
BRIGHTEST, SHARE = 0.95, 0.99       # that share of the albedo is at most so bright


class Light(NamedTuple):
    """Spherical Gaussians: light amplitude exp(sharpness (axis . direction - 1)) from a direction.

    axes (L, 3) float64, unit, in the box of the views; sharpness (L,), at least 2 for `irradiance`;
    amplitude (L,), not negative.
    """
    axes: np.ndarray
    sharpness: np.ndarray
    amplitude: np.ndarray


def even_light():
    """Return the Light of about 1 from all sides that everything starts from."""
    return Light(fibonacci_sphere(LOBES), np.full(LOBES, SHARPNESS), np.ones(LOBES))


def fibonacci_sphere(count):
    """Return unit vectors (count, 3) float64 that are spread evenly over the sphere."""
    k = np.arange(count) + 0.5
    height, turn = 1 - 2 * k / count, np.pi * (1 + 5 ** 0.5) * k
    around = np.sqrt(1 - height * height)
    return np.stack([around * np.cos(turn), around * np.sin(turn), height], 1)


def irradiance(axes, sharpness, normals):
    """Return the irradiance by pi of each lobe of amplitude 1 on unit normals (N, 3), (N, L).

    The lobe's integral times a curve that was fitted to the clamped cosine over it (S. Hill's "SG
    irradiance fitted", in M. Pettineo, "SG series part 3", 2016), a parabola around the horizon.
    The cosine to the lobe's axis is clipped beyond the parabola only: clipped before, as in SV3D's
    code, light leaks to surfaces that are turned away, with errors of 8 to 27 % instead of 2, for
    sharpness 2 to 100.
    """
    cosine = np.asarray(normals, np.float64) @ axes.T
    once, twice = np.exp(-sharpness), np.exp(-2 * sharpness)
    scale = 1 + 2 * twice - 1 / sharpness
    bias = (once - twice) / sharpness - twice
    width = np.sqrt(1 - scale) / (4 * BEND)
    near = np.abs(BEND * cosine) <= width
    parabola = (BEND * cosine + width) ** 2 / np.sqrt(1 - scale)
    curve = np.where(near, parabola, np.clip(cosine, 0, 1))
    return (scale * curve + bias) * 2 / sharpness * (1 - twice)


def shading(light, normals):
    """Return (N,) float64, what `light` makes of an albedo of 1 at unit normals (N, 3)."""
    return irradiance(light.axes, light.sharpness, normals) @ light.amplitude


def estimate(vertices, faces, views):
    """Return the Light under which the views were taken, and a dict of what report.json says of it.

    vertices (N, 3), faces (M, 3) of a mesh in the box of `views` (PosedViews). The mean shading of
    what they see is 1, or more: as much as keeps the albedo below BRIGHTEST.
    """
    normals = vertex_normals(vertices, faces)
    total, weight = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
    for k in range(len(views)):
        sight = visibility.render_visibility(vertices, faces, views, k)
        visibility.gather(
            np.asarray(vertices, np.float64), normals, visibility.camera(views, k),
            _linear(views, k), visibility.pixel_confidence(views.mask[k]),
            sight.nearest, sight.farthest, visibility.POWER, total, weight,
        )
    seen = weight > 0
    color = total[seen] / weight[seen, None]
    area = np.bincount(faces.reshape(-1), np.repeat(areas(vertices, faces), 3), len(vertices))
    trust = (area * np.minimum(weight, 1))[seen]
    light, low, high = fit(normals[seen], color, trust), 1.0, 1.0
    if seen.any():
        shade = shading(light, normals[seen])
        albedo = np.quantile(color.max(1) / shade, SHARE)
        scale = max(1 / np.average(shade, weights=trust), albedo / BRIGHTEST)
        light = light._replace(amplitude=light.amplitude * scale)
        low, high = np.quantile(shade * scale, (0.05, 0.95))
    return light, {
        "shading": [round(float(low), 3), round(float(high), 3)],
        "sharpness": SHARPNESS,
        "amplitudes": [round(float(a), 4) for a in light.amplitude],
    }


def fit(normals, color, trust):
    """Return the Light, up to a factor, that explains colors by the normals where hues are alike.

    normals (N, 3) unit; color (N, 3) linear; trust (N,) their weights. For random pairs of places
    the difference of log brightness is compared with that of log shading, weighted by how alike the
    hues are and with Geman and McClure's robust loss, whose scale falls. The amplitudes are found
    by Gauss and Newton's method in their logarithms. Fewer than FEWEST places tell nothing.
    """
    light = even_light()
    if len(normals) < FEWEST:
        return light
    # Pairs of about the same hue.
    level = color.sum(1) + NOISE
    hue, level = color / level[:, None], np.log(level)
    chosen = np.random.RandomState(0).choice(len(normals), (2, 8 * PAIRS), p=trust / trust.sum())
    distance = np.linalg.norm(hue[chosen[0]] - hue[chosen[1]], axis=1)
    alike = np.flatnonzero(distance < 2 * HUE)[:PAIRS]
    (i, j), likeness = chosen[:, alike], np.exp(-(distance[alike] / HUE) ** 2)
    difference = level[i] - level[j]
    # Least squares, reweighted.
    at_places = irradiance(light.axes, light.sharpness, normals)
    all_around = irradiance(light.axes, light.sharpness, fibonacci_sphere(200))
    log = np.zeros(LOBES)
    for paint in np.repeat(PAINTS, ROUNDS):
        shade, slope = _log_shading(at_places, log)
        flat, tilt = _log_shading(all_around, log)
        rest, slope = difference - shade[i] + shade[j], slope[i] - slope[j]
        weighted = (likeness / (1 + (rest / paint) ** 2) ** 2 / max(len(i), 1))[:, None] * slope
        normal = weighted.T @ slope + EVEN * tilt.T @ tilt / len(tilt) + 1e-4 * np.eye(LOBES)
        right = weighted.T @ rest - EVEN * tilt.T @ flat / len(tilt) - 1e-4 * log
        log = np.clip(log + np.clip(np.linalg.solve(normal, right), -1, 1), -6, 4)
    return light._replace(amplitude=np.exp(log))


def _log_shading(each, log):
    """Return log shading (N,), of irradiances (N, L), and its derivatives by log amplitudes."""
    parts = each * np.exp(log)
    shade = parts.sum(1)
    return np.log(shade), parts / shade[:, None]


def removed(views, vertices, faces, light):
    """Return the views as an even light of 1 would show them: their linear light by the shading.

    A pixel beside the mesh takes the shading of the nearest one on it.
    """
    normals, rgb = vertex_normals(vertices, faces), np.empty_like(views.rgb)
    for k in range(len(views)):
        sight = visibility.render_visibility(vertices, faces, views, k)
        shade = _shading_image(light, normals, faces, sight.face, sight.weights)
        rgb[k] = srgb_from_linear(_linear(views, k) / shade) * views.mask[k, ..., None]
    return replace(views, rgb=rgb)


def lit(mesh, light):
    """Return a TexturedMesh, in the box of the views, lit: what was its texture is its albedo."""
    face, weights = baking.texels(mesh.uv, mesh.face_uv, mesh.texture.shape[0])
    normals = vertex_normals(mesh.vertices, mesh.faces)
    shade = _shading_image(light, normals, mesh.faces, face, weights)
    texture = srgb_from_linear(linear_from_srgb(mesh.texture / np.float32(255)) * shade)
    return replace(mesh, texture=np.round(texture * 255).astype(np.uint8), albedo=mesh.texture)


def _shading_image(light, normals, faces, face, weights):
    """Return the shading in a picture (H, W, 3) float32 of faces (H, W) and weights of corners.

    normals: of the vertices. Where no face is, that of the nearest one.
    """
    hit = face >= 0
    w = weights[hit].astype(np.float64)
    w = np.concatenate([1 - w.sum(1, keepdims=True), w], 1)[..., None]
    normal = (normals[faces[face[hit]]] * w).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    image = np.ones((*face.shape, 3), np.float32)
    image[hit] = shading(light, normal)[:, None]
    return baking.spread(image, hit)


def _linear(views, k):
    """Return view k without its alpha, (H, W, 3) float32 linear light."""
    return linear_from_srgb(
        np.clip(visibility.unpremultiply(views.rgb[k], views.mask[k]), 0, 1))
