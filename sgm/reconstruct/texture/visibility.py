"""Per-view visibility of a mesh (host only).

Depth, face and weights of every pixel, and where points of the surface are seen well.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from sgm.geometry.topology import vertex_normals
from sgm.render.zbuffer import NEAR, rasterize

REACH = 2           # pixels around a depth step whose colors may belong to the other side of it
EDGE = 0.02         # weight of such colors: they count only where no better ones are
POWER = 2.0         # power of the cosine in a view's weight: higher trusts frontal views
SLACK = 2e-3        # how far behind the nearest surface a point counts as on it, by distance


@dataclass(frozen=True, eq=False)
class ViewVisibility:
    """One view of a mesh.

    face (h, w) int32, -1 = nothing; weights (h, w, 2) float32 of corners 1 and 2; depth (h, w)
    float32 along the axis, 0 = nothing; nearest, farthest (h, w) float32: the least and the
    greatest depth of the mesh within REACH pixels, inf and 0 = nothing.
    """
    face: np.ndarray
    weights: np.ndarray
    depth: np.ndarray
    nearest: np.ndarray
    farthest: np.ndarray


def render_visibility(
    vertices: np.ndarray, faces: np.ndarray, views, k: int, fine: int = 1
) -> ViewVisibility:
    """Render view k of `views` of a mesh, at `fine` samples per pixel and side.

    views: `sgm.reconstruct.posed_views.PosedViews`.
    """
    size = max(views.h, views.w) * fine
    c2w = np.asarray(views.c2w[k], np.float64)
    local = (np.asarray(vertices, np.float64) - c2w[:3, 3]) @ c2w[:3, :3]
    # The rasterizer knows square pictures with the axis in their middle: shear the world until ours
    # is one.
    local = np.stack(
        [
            (views.fl_x * fine * local[:, 0] - (views.cx * fine - size / 2) * local[:, 2]) / size,
            (views.fl_y * fine * local[:, 1] + (views.cy * fine - size / 2) * local[:, 2]) / size,
            local[:, 2],
        ],
        1,
    )
    none, zero = np.zeros((len(vertices), 2), np.float32), np.zeros(len(faces), np.int32)
    depth, face, weights = rasterize(
        local,
        faces,
        none,
        zero,
        np.ones((1, 4), np.float32),
        np.zeros((1, 3), np.int64),
        np.zeros(1, np.float32),
        np.zeros((1, 4), np.float32),
        size,
        float(size),
        NEAR,
    )
    crop = np.s_[:views.h * fine, :views.w * fine]
    depth, face, weights = depth[crop].astype(np.float32), face[crop], weights[crop]
    around = np.ones((2 * REACH * fine + 1,) * 2, np.uint8)
    nearest = cv2.erode(np.minimum(depth, 1e30), around)
    depth = np.where(face >= 0, depth, 0)
    return ViewVisibility(
        np.ascontiguousarray(face),
        np.ascontiguousarray(weights),
        depth,
        np.where(nearest < 1e30, nearest, np.inf).astype(np.float32),
        cv2.dilate(depth, around),
    )


def pixel_confidence(mask: np.ndarray) -> np.ndarray:
    """Return how surely pixels show the object, (H, W) float32.

    That is alpha (H, W) at its least within REACH pixels, and EDGE of its own at the rim.
    """
    mask = np.ascontiguousarray(mask, np.float32)
    least = cv2.erode(mask, np.ones((2 * REACH + 1,) * 2, np.uint8), borderValue=0)
    return np.maximum(least, np.where(mask > 0.5, EDGE * mask, 0)).astype(np.float32)


def unpremultiply(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return premultiplied colors (H, W, 3) without their alpha, 0 where nothing is."""
    return np.divide(rgb, mask[..., None], out=np.zeros_like(rgb), where=mask[..., None] > 1e-3)


def camera(views, k: int) -> np.ndarray:
    """Return a camera for the kernels, (16,) float64.

    Rotation of world to camera by rows, eye, fl_x, fl_y, cx, cy.
    """
    c2w = np.asarray(views.c2w[k], np.float64)
    return np.concatenate(
        [c2w[:3, :3].T.reshape(-1), c2w[:3, 3], [views.fl_x, views.fl_y, views.cx, views.cy]]
    )


def face_density(
    vertices: np.ndarray, faces: np.ndarray, views, sights: list[ViewVisibility]
) -> np.ndarray:
    """Return pixels per unit of length at which each face is seen in its best view, (M,) float64.

    It is the mean over directions: sqrt(cosine) focal / depth of the face's middle; 0 where no view
    sees it.
    """
    middle = np.asarray(vertices, np.float64)[faces].mean(1)
    normal = vertex_normals(vertices, faces)[faces].mean(1)
    best = np.zeros(len(faces))
    for k, sight in enumerate(sights):
        shown = np.zeros(len(faces), bool)
        shown[sight.face[sight.face >= 0]] = True
        c2w = np.asarray(views.c2w[k], np.float64)
        to_eye = c2w[:3, 3] - middle
        cosine = np.einsum("ij,ij->i", to_eye, normal) / np.maximum(
            np.linalg.norm(to_eye, axis=1), 1e-12
        )
        depth = np.maximum(to_eye @ c2w[:3, 2], NEAR)
        best = np.maximum(
            best, np.where(shown, np.sqrt(np.clip(cosine, 0, 1)) * views.fl_x / depth, 0)
        )
    return best


@njit(cache=True)
def gather(points, normals, cam, color, sure, nearest, farthest, power, total, weight):
    """Add one view's colors at surface points (N, 3), weighted by cos^power and confidence.

    color (h, w, 3), sure (h, w), nearest and farthest (h, w) of the view; total (N, 3) and weight
    (N,) are added to.
    """
    h, w = sure.shape
    for i in range(len(points)):
        dx, dy, dz = points[i, 0] - cam[9], points[i, 1] - cam[10], points[i, 2] - cam[11]
        depth = -(cam[6] * dx + cam[7] * dy + cam[8] * dz)
        if depth < 1e-6:
            continue
        far = np.sqrt(dx * dx + dy * dy + dz * dz)
        cosine = -(dx * normals[i, 0] + dy * normals[i, 1] + dz * normals[i, 2]) / far
        if cosine <= 0.05:
            continue
        x = cam[14] + cam[12] * (cam[0] * dx + cam[1] * dy + cam[2] * dz) / depth - 0.5
        y = cam[15] - cam[13] * (cam[3] * dx + cam[4] * dy + cam[5] * dz) / depth - 0.5
        x0, y0 = int(np.floor(x)), int(np.floor(y))
        if x0 < 0 or y0 < 0 or x0 + 1 >= w or y0 + 1 >= h:
            continue
        # The surface itself comes nearer by this much within the reach of `nearest`, if it is
        # slanted.
        slant = np.sqrt(max(1.0 - cosine * cosine, 0.0)) / cosine
        allowed = SLACK * far + (REACH + 1) * depth / cam[12] * slant
        fx, fy = x - x0, y - y0
        sum_w, r, g, b = 0.0, 0.0, 0.0, 0.0
        hidden, rim = False, False
        for j in range(2):
            for k in range(2):
                part = (fx if k else 1.0 - fx) * (fy if j else 1.0 - fy)
                hidden |= nearest[y0 + j, x0 + k] < depth - allowed
                rim |= farthest[y0 + j, x0 + k] > depth + allowed
                s = part * sure[y0 + j, x0 + k]
                sum_w += s
                r += s * color[y0 + j, x0 + k, 0]
                g += s * color[y0 + j, x0 + k, 1]
                b += s * color[y0 + j, x0 + k, 2]
        if hidden or sum_w <= 1e-5:
            continue
        scale = cosine ** power * (EDGE if rim else 1.0)
        total[i, 0] += scale * r
        total[i, 1] += scale * g
        total[i, 2] += scale * b
        weight[i] += scale * sum_w
