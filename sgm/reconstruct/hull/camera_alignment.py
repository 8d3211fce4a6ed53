"""Camera alignment: turns cameras until outlines agree, for directions that are a little off.

Numpy, numba and OpenCV only. In turn, the hull of all views is carved, tolerating a minority that
contradicts it, and each camera is turned about its own place so that its picture's outline falls on
the hull's. Places, and turns about the line of sight, stay as they are.
"""
from dataclasses import replace

import cv2
import numpy as np

from sgm.reconstruct.hull import sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF

CELLS = 64                                      # per side of the hull's grid
ALLOWED_OUTLIERS = (0.3, 0.25, 0.2, 0.15, 0.1, 0.1)     # share of the views, round by round
BLUR = 1 / 120  # blur before comparison, by the pictures' longer side
STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)


def turned(camera, intrinsics, place, found):
    """Return a camera-to-world (4, 4) turned about its place by the least angle.

    What it shows at pixel `place` (x, y) then appears at `found`. intrinsics: fl_x, fl_y, cx, cy.
    """
    fx, fy, cx, cy = intrinsics
    a, b = (np.array([(x - cx) / fx, (cy - y) / fy, -1.0]) for x, y in (found, place))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    v = np.cross(a, b)
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    out = camera.copy()
    # Rodrigues: carries a to b
    out[:3, :3] = camera[:3, :3] @ (np.eye(3) + cross + cross @ cross / (1 + a @ b))
    return out


def shift(outline, mask):
    """Return by how many pixels (x, y) an outline (H, W) must be moved to lie on a mask.

    Both are in [0, 1] and not empty. It is found by the enhanced correlation coefficient
    (Evangelidis & Psarakis 2008), from where their middles meet; that start is returned if it
    fails.
    """
    soft = [
        cv2.GaussianBlur(np.asarray(picture, np.float32), (0, 0), BLUR * max(mask.shape))
        for picture in (outline, mask)
    ]
    middles = [
        np.array([(picture * axis).sum() for axis in np.mgrid[: mask.shape[0], : mask.shape[1]]])
        / picture.sum()
        for picture in soft
    ]
    start = np.eye(2, 3, dtype=np.float32)
    start[:, 2] = (middles[1] - middles[0])[::-1]
    try:
        return cv2.findTransformECC(*soft, start.copy(), cv2.MOTION_TRANSLATION, STOP, None, 1)[1][
            :, 2
        ].astype(float)
    except cv2.error:  # it did not converge
        return start[:, 2].astype(float)


def without_common(shifts, views):
    """Return shifts (V, 2) of pixels less what one move of the whole object does to all pictures.

    Outlines contain no information on such a move.
    """
    # depth of the box's middle
    depth = np.einsum("ni,ni->n", views.c2w[:, :3, 3], views.c2w[:, :3, 2])[:, None]
    per_unit = np.stack(
        [views.fl_x / depth * views.c2w[:, :3, 0], -views.fl_y / depth * views.c2w[:, :3, 1]],
        axis=1,
    )
    move = np.linalg.lstsq(per_unit.reshape(-1, 3), shifts.reshape(-1), rcond=None)[0]
    return shifts - per_unit @ move


def aligned(views):
    """Return small views in the box |x| <= HALF with cameras turned so that their outlines agree.
    """
    middle, start = views.intrinsics[2:], views
    total = np.zeros((len(views), 2))
    for share in ALLOWED_OUTLIERS:
        sdf = visual_hull.closed(
            visual_hull.hull_sdf(views, CELLS, HALF, int(share * len(views))), HALF
        )
        outlines, _ = sdf_grid.silhouettes(sdf, HALF, views)
        if views.known is not None:
            outlines &= views.known
        total += [
            shift(outline, mask) if outline.any() else (0, 0)
            for outline, mask in zip(outlines, views.mask)
        ]
        total = without_common(total, start)
        views = replace(start, c2w=np.stack([turned(camera, views.intrinsics, middle, middle + by)
                                             for camera, by in zip(start.c2w, total)]))
    return views
