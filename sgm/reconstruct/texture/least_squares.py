"""Texture refinement: the texture whose renders are nearest to the views.

Linear least squares by conjugate gradients, on the host. A pixel shows the mean of FINE x FINE
samples of the surface, each a bilinear mix of four texels: a fixed linear map A of the texture T
once the mesh and cameras are fixed. It minimizes sum_i w_i |A T - I|^2_i + anchor |T - T0|^2.
"""
from __future__ import annotations

import numpy as np
from numba import njit

from sgm.geometry.topology import face_normals, vertex_normals
from sgm.reconstruct.texture import visibility

FINE = 2            # samples per pixel and side
ANCHOR = 0.3        # weight of the first guess, by the mean weight of a texel


def refine(
    image: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    face_uv: np.ndarray,
    views,
    steps: int,
    stopped=(),
) -> tuple[np.ndarray, np.ndarray]:
    """Return the refined texture (S, S, 3) float32, and which texels some pixel shows (S, S).

    image: the first guess, of the same shape, in [0, 1]. steps: of the conjugate gradients; they
    end early when `stopped`, a list that a signal's handler fills, is not empty any more.
    """
    size = image.shape[0]
    spots, pixels, weights = _observations(vertices, faces, uv, face_uv, views, size, stopped)
    texture = image.reshape(-1, 3).astype(np.float64)
    if stopped or not len(weights):
        return image, np.zeros((size, size), bool)
    diagonal = np.zeros(size * size)
    _diagonal(spots, weights, size, diagonal)
    touched = diagonal > 0
    anchor = ANCHOR * diagonal[touched].mean()
    start = texture.copy()
    # Residual of the normal equations at the start, then conjugate gradients, each channel with its
    # own steps.
    residual = np.zeros_like(texture)
    _normal(texture, spots, weights, pixels, size, residual)
    condition = 1 / (diagonal + anchor)[:, None]
    z = condition * residual
    direction, rho = z.copy(), (residual * z).sum(0)
    nothing = np.zeros_like(pixels)
    for _ in range(steps):
        if stopped:
            break
        image_of = np.zeros_like(texture)
        _normal(direction, spots, weights, nothing, size, image_of)
        image_of = anchor * direction - image_of
        step = rho / np.maximum((direction * image_of).sum(0), 1e-30)
        texture += step * direction
        residual -= step * image_of
        z = condition * residual
        rho, before = (residual * z).sum(0), rho
        direction = z + rho / np.maximum(before, 1e-30) * direction
    # No view says more than its own range there: what rings beyond it is clipped where it is shown.
    texture = np.where(touched[:, None], np.clip(texture, 0, 1), start)
    return texture.reshape(image.shape).astype(np.float32), touched.reshape(size, size)


def _observations(vertices, faces, uv, face_uv, views, size, stopped):
    """Return the pixels that show the surface and nothing else.

    That is spots (P, FINE^2, 2) float32 in texels, colors (P, 3) float32, weights (P,).
    """
    flat = np.stack([uv[:, 0], 1 - uv[:, 1]], 1)[face_uv] * size - 0.5
    smooth, plain = vertex_normals(vertices, faces), face_normals(vertices, faces)
    found = []
    for k in range(len(views)):
        if found and stopped:
            break
        sight = visibility.render_visibility(vertices, faces, views, k, FINE)
        color, sure = (
            visibility.unpremultiply(views.rgb[k], views.mask[k]),
            visibility.pixel_confidence(views.mask[k]),
        )
        found.append(
            _shown(
                sight.face,
                sight.weights,
                sight.depth,
                sight.nearest,
                sight.farthest,
                vertices,
                faces,
                flat,
                smooth,
                plain,
                visibility.camera(views, k),
                color,
                sure,
                visibility.POWER,
            )
        )
    return [np.concatenate([part[i] for part in found]) for i in range(3)]


@njit(cache=True)
def _shown(
    face,
    weights,
    depth,
    nearest,
    farthest,
    vertices,
    faces,
    flat,
    smooth,
    plain,
    cam,
    color,
    sure,
    power,
):
    height, width = sure.shape
    spots = np.empty((height * width, FINE * FINE, 2), np.float32)
    pixels = np.empty((height * width, 3), np.float32)
    trust = np.empty(height * width)
    count = 0
    for row in range(height):
        for col in range(width):
            if sure[row, col] < 0.5:
                continue
            # All samples of the pixel must lie on one visible, not too slanted part of the surface.
            cosine, good = 0.0, True
            for s in range(FINE * FINE):
                i, j = row * FINE + s // FINE, col * FINE + s % FINE
                f = face[i, j]
                if f < 0:
                    good = False
                    break
                b, c = weights[i, j, 0], weights[i, j, 1]
                a = 1.0 - b - c
                for k in range(2):
                    spots[count, s, k] = a * flat[f, 0, k] + b * flat[f, 1, k] + c * flat[f, 2, k]
                p = (
                    a * vertices[faces[f, 0]]
                    + b * vertices[faces[f, 1]]
                    + c * vertices[faces[f, 2]]
                )
                n = a * smooth[faces[f, 0]] + b * smooth[faces[f, 1]] + c * smooth[faces[f, 2]]
                to_eye = cam[9:12] - p
                far = np.sqrt((to_eye * to_eye).sum())
                facing = (to_eye * n).sum() / (far * max(np.sqrt((n * n).sum()), 1e-12))
                flatly = (to_eye * plain[f]).sum() / far
                if facing <= 0.05 or flatly <= 0.02:
                    good = False
                    break
                slant = np.sqrt(max(1.0 - flatly * flatly, 0.0)) / flatly
                allowed = (
                    visibility.SLACK * far + (visibility.REACH + 1) * depth[i, j] / cam[12] * slant
                )
                if nearest[i, j] < depth[i, j] - allowed or farthest[i, j] > depth[i, j] + allowed:
                    good = False
                    break
                cosine += facing / (FINE * FINE)
            if good:
                pixels[count] = color[row, col]
                trust[count] = sure[row, col] * cosine ** power
                count += 1
    return spots[:count].copy(), pixels[:count].copy(), trust[:count].copy()


@njit(cache=True, inline="always")
def _taps(x, y, size):
    x, y = min(max(x, 0.0), size - 1.001), min(max(y, 0.0), size - 1.001)
    x0, y0 = int(x), int(y)
    fx, fy = x - x0, y - y0
    first = y0 * size + x0
    return first, (1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy


@njit(cache=True)
def _normal(texture, spots, weights, pixels, size, out):
    """Add A^T W (I - A T) to `out`, for texture T (S S, 3) and pixels I (P, 3)."""
    samples = spots.shape[1]
    r = np.empty(3)
    for p in range(len(weights)):
        for k in range(3):
            r[k] = pixels[p, k]
        for s in range(samples):
            t, a, b, c, d = _taps(spots[p, s, 0], spots[p, s, 1], size)
            for k in range(3):
                r[k] -= (a * texture[t, k] + b * texture[t + 1, k] + c * texture[t + size, k]
                         + d * texture[t + size + 1, k]) / samples
        scale = weights[p] / samples
        for s in range(samples):
            t, a, b, c, d = _taps(spots[p, s, 0], spots[p, s, 1], size)
            for k in range(3):
                out[t, k] += scale * a * r[k]
                out[t + 1, k] += scale * b * r[k]
                out[t + size, k] += scale * c * r[k]
                out[t + size + 1, k] += scale * d * r[k]


@njit(cache=True)
def _diagonal(spots, weights, size, out):
    """Add the row sums of A^T W A to `out`; they bound its spectrum: A has no negative entry."""
    samples = spots.shape[1]
    for p in range(len(weights)):
        for s in range(samples):
            t, a, b, c, d = _taps(spots[p, s, 0], spots[p, s, 1], size)
            out[t] += weights[p] * a / samples
            out[t + 1] += weights[p] * b / samples
            out[t + size] += weights[p] * c / samples
            out[t + size + 1] += weights[p] * d / samples
