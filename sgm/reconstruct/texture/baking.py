"""Texture baking from views with known cameras.

First every texel takes the mean of the views that see it, weighted by the angle. Then the whole
texture is solved for: the linear least squares of what it shows in every pixel of every view, so
that the blur of sampling twice is undone and both sides of a seam agree. Colors stay sRGB-coded, as
in the pictures.
"""
from __future__ import annotations

import logging

import cv2
import numpy as np
from numba import njit

from sgm.config.reconstruction import TextureSpec
from sgm.geometry.textured_mesh import TexturedMesh
from sgm.geometry.topology import areas, edge_groups, vertex_normals
from sgm.reconstruct.texture import visibility
from sgm.reconstruct.texture.atlas import unwrap
from sgm.reconstruct.texture.least_squares import refine

log = logging.getLogger("sgm")


UNSEEN = 0.3            # texels per length of what no view sees, by those of what is seen best
GUESS = 0.1             # a guess weighs as much as a view that sees the texel at this cosine


def bake(
    vertices: np.ndarray, faces: np.ndarray, views, settings: TextureSpec, stopped=(), imagined=None
) -> TexturedMesh:
    """Return the TexturedMesh of a mesh and `views` (PosedViews) in whose box it lies.

    vertices (N, 3), faces (M, 3), one vertex per place. Deterministic; a few seconds for 21 views
    of 576 x 576 pixels, most of them for the least squares, which end with what they have once
    `stopped`, a list, holds something. imagined: PosedViews that count where no view sees the
    surface, and hardly elsewhere. Raises InputError if the charts do not fit into the texture.
    """
    # The atlas: what is seen closely gets more texels.
    vertices, faces = np.asarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32)
    sights = [visibility.render_visibility(vertices, faces, views, k) for k in range(len(views))]
    density = visibility.face_density(vertices, faces, views, sights)
    best = np.quantile(density[density > 0], 0.9) if (density > 0).any() else 1.0
    uv, face_uv = unwrap(
        vertices, faces, settings.size, settings.padding, np.clip(density / best, UNSEEN, 1)
    )
    # The place and normal of every texel.
    face, weights = texels(uv, face_uv, settings.size)
    row, column = np.nonzero(face >= 0)
    corners, w = faces[face[row, column]], weights[row, column].astype(np.float64)
    w = np.concatenate([1 - w.sum(1, keepdims=True), w], 1)[..., None]
    points = (vertices[corners] * w).sum(1)
    normals = (vertex_normals(vertices, faces)[corners] * w).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    # The mean of the views that see it; a guess where none does.
    total, weight = _gathered(points, normals, views, sights)
    known = weight > 0
    # A face's texels stand for its area, however many there are.
    share = areas(vertices, faces) / np.maximum(
        np.bincount(face[row, column], minlength=len(faces)), 1
    )
    share = share[face[row, column]]
    coverage = float(share[known].sum() / max(share.sum(), 1e-30))
    doubt = GUESS ** visibility.POWER
    if imagined is not None:
        sights = [visibility.render_visibility(vertices, faces, imagined, k)
                  for k in range(len(imagined))]
        more = _gathered(points, normals, imagined, sights)
        total, weight = total + doubt * more[0], weight + doubt * more[1]
    guess = _guess(vertices, faces, corners, w[..., 0], total, weight)
    image = np.zeros((settings.size, settings.size, 3), np.float32)
    image[row, column] = (total + doubt * guess) / (weight + doubt)[:, None]
    inside = face >= 0
    image = spread(image, inside)
    # Least squares over the whole texture.
    if settings.refine:
        image, touched = refine(
            image, vertices, faces, uv, face_uv, views, settings.refine, stopped
        )
        image = spread(image, inside | touched)
    log.info("texture: %.1f %% of the surface is seen", 100 * coverage)
    return TexturedMesh(
        vertices,
        faces,
        uv,
        face_uv,
        np.round(np.clip(image, 0, 1) * 255).astype(np.uint8),
        coverage,
    )


def _gathered(points, normals, views, sights):
    """Return what views show at points, summed (L, 3), and the sum of their weights (L,)."""
    total, weight = np.zeros((len(points), 3)), np.zeros(len(points))
    for k, sight in enumerate(sights):
        color, sure = (
            visibility.unpremultiply(views.rgb[k], views.mask[k]),
            visibility.pixel_confidence(views.mask[k]),
        )
        visibility.gather(
            points,
            normals,
            visibility.camera(views, k),
            color,
            sure,
            sight.nearest,
            sight.farthest,
            visibility.POWER,
            total,
            weight,
        )
    return total, weight


def texels(uv: np.ndarray, face_uv: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the face that covers the middle of each texel, and where in it.

    face (size, size) int32, -1 = none; weights of its corners 1 and 2 (size, size, 2) float32; row
    0 is at v = 1.
    """
    flat = np.stack([uv[:, 0], 1 - uv[:, 1]], 1).astype(np.float64) * size
    return _texels(flat[face_uv], size)


@njit(cache=True)
def _texels(corners, size):
    face = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 2), np.float32)
    for f in range(len(corners)):
        a, b, c = corners[f, 0], corners[f, 1], corners[f, 2]
        double = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if double == 0.0:
            continue
        for row in range(
            max(0, int(min(a[1], b[1], c[1]) - 0.5)), min(size - 1, int(max(a[1], b[1], c[1]))) + 1
        ):
            for col in range(
                max(0, int(min(a[0], b[0], c[0]) - 0.5)),
                min(size - 1, int(max(a[0], b[0], c[0]))) + 1,
            ):
                x, y = col + 0.5, row + 0.5
                s = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / double
                t = ((a[0] - x) * (b[1] - y) - (a[1] - y) * (b[0] - x)) / double
                if s >= 0.0 and t >= 0.0 and s + t <= 1.0:
                    face[row, col] = f
                    weights[row, col, 0], weights[row, col, 1] = s, t
    return face, weights


def spread(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the image (H, W, 3) with every unknown texel as the nearest known one.

    That is padding for filtering and smaller copies. known (H, W) bool.
    """
    if known.all() or not known.any():
        return image
    _, label = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    source = np.zeros(label.max() + 1, np.int64)
    source[label[known]] = np.flatnonzero(known.reshape(-1))
    return image.reshape(-1, 3)[source[label]]


def _guess(vertices, faces, corners, w, total, weight):
    """Return colors (L, 3) float64 for texels that nobody saw.

    Vertices take what is seen around them, the others an interpolation. corners (L, 3) vertices of
    the texels' faces, w (L, 3) their weights, total (L, 3), weight (L,) of what was seen.
    """
    count = len(vertices)
    amount = np.bincount(corners.reshape(-1), (w * weight[:, None]).reshape(-1), count)
    color = np.stack(
        [
            np.bincount(corners.reshape(-1), (w * total[:, k : k + 1]).reshape(-1), count)
            for k in range(3)
        ],
        1,
    )
    known = amount > GUESS ** visibility.POWER
    color = np.divide(color, amount[:, None], out=np.zeros_like(color), where=known[:, None])
    if known.any() and not known.all():
        order, start = edge_groups(faces)
        first = order[start[:-1]]
        ends = np.stack([faces[first // 3, first % 3], faces[first // 3, (first + 1) % 3]], 1)
        length = np.linalg.norm(vertices[ends[:, 0]] - vertices[ends[:, 1]], axis=1)
        _harmonic(ends, 1 / np.maximum(length, 1e-9).astype(np.float64), known, color)
    elif not known.any():
        color[:] = 0.5
    return (color[corners] * w[..., None]).sum(1)


@njit(cache=True)
def _harmonic(ends, stiffness, known, color):
    """Make unknown vertices the weighted mean of their neighbors.

    First in waves from the known ones, then by relaxation.
    """
    count = len(known)
    reached = known.copy()
    for sweep in range(count + 200):
        total, weight = np.zeros((count, 3)), np.zeros(count)
        for e in range(len(ends)):
            for way in range(2):
                a, b = ends[e, way], ends[e, 1 - way]
                if reached[b] and not known[a]:
                    total[a] += stiffness[e] * color[b]
                    weight[a] += stiffness[e]
        fresh = 0
        for v in range(count):
            if weight[v] > 0.0 and not known[v]:
                color[v] = total[v] / weight[v]
                fresh += not reached[v]
                reached[v] = True
        if fresh == 0 and sweep >= 200:
            break
