"""Camera alignment: turns cameras until outlines agree, for directions that are a little off.

Numpy, numba and OpenCV only. In turn, the hull of all views is carved, tolerating a minority that
contradicts it, and each camera is turned about its own place so that its picture's outline falls on
the hull's. Places, and turns about the line of sight, stay as they are; only cameras whose poses
were measured are also moved (`refined`).
"""
from dataclasses import replace

import cv2
import numpy as np

from sgm.reconstruct.hull import sdf_grid, visual_hull
from sgm.reconstruct.posed_views import HALF

CELLS = 64                                      # per side of the hull's grid
ALLOWED_OUTLIERS = (0.3, 0.25, 0.2, 0.15, 0.1, 0.1)     # share of the views, round by round
BLUR = 1 / 120  # blur before comparison, by the pictures' longer side
# The same for cameras that are also moved (`refined`); the steps of each round
FITTED_CELLS, FITTED_OUTLIERS, FITTED_STEPS = 80, (0.1, 0.08, 0.06, 0.05, 0.04, 0.03), 3
HUBER = 2.0             # pixels from which a distance counts less
FARTHEST = 0.04         # share of a picture's width from which it does not count
# Weight of the given pose: a turn or a move that shifts the middle by one pixel costs as much as
# this share of the outline's pixels one pixel off
WEIGHT = 0.003
FEWEST = 6              # points of an outline that a pose of six numbers takes, at least
EVERY = 40              # of the hull's points, one is compared
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


def refined(views):
    """Return views in the box |x| <= HALF with measured cameras moved and turned a little.

    In turn, a hull is carved that a minority may contradict, and each camera is `fitted` to it. The
    whole is then laid back onto the cameras as they came (`laid_on`): outlines contain no
    information on where, how turned and how large it all is.
    """
    start = views.c2w
    for share in FITTED_OUTLIERS:
        sdf = visual_hull.closed(
            visual_hull.hull_sdf(views, FITTED_CELLS, HALF, int(share * len(views))), HALF
        )
        points = visual_hull.surface_points(sdf, HALF).astype(float)[::EVERY]
        views = replace(views, c2w=laid_on(fitted(views, sdf, start).c2w, start, points))
    return views


def fitted(views, sdf, given=None):
    """Return views with each camera moved and turned until a solid's outline falls on its mask's.

    sdf: the solid, a closed grid of the box |x| <= HALF. given: the measured cameras (V, 4, 4),
    which hold what the outlines do not tell; None = those of the views.
    """
    given = views.c2w if given is None else given
    seen, depth = sdf_grid.silhouettes(sdf, HALF, views)
    cameras = []
    for k, camera in enumerate(views.c2w):
        # At the picture's border an object that is cut off has no outline.
        inner = cv2.erode(seen[k].astype(np.uint8), np.ones((3, 3)), borderValue=1)
        rows, columns = np.nonzero(seen[k] & (inner == 0))
        origins, directions = views.rays(np.full(len(rows), k), rows, columns)
        points = origins + directions * depth[k, rows, columns][:, None]
        field = visual_hull.outline_distance(views.mask[k], views.known_of(k))
        cameras.append(_fitted(camera, given[k], views.intrinsics, field, points))
    return replace(views, c2w=np.stack(cameras))


def _fitted(camera, given, intrinsics, field, points):
    """Return a camera-to-world (4, 4) moved so that points of an outline fall on a mask's.

    points (N, 3) lie on the edge of the solid as the camera sees it, half a pixel within. field
    (H, W): `outline_distance` of the mask. Gauss-Newton steps on the sum of squared distances,
    which count less the larger they are (Huber 1964) and not at all beyond FARTHEST: there another
    fault is at work. WEIGHT of the given pose holds what the outline does not tell: a turn and a
    move aside against it cancel in the picture's middle.
    """
    if len(points) < FEWEST:            # it does not see the solid, or nothing else
        return camera
    fx, fy, cx, cy = intrinsics
    slopes = np.gradient(field)
    height, width = field.shape
    for _ in range(FITTED_STEPS):
        local = (points - camera[:3, 3]) @ camera[:3, :3]
        x, y, z = local[:, 0], local[:, 1], np.maximum(-local[:, 2], 1e-6)
        u, v = cx + fx * x / z - 0.5, cy - fy * y / z - 0.5
        at = u.astype(np.float32)[:, None], v.astype(np.float32)[:, None]
        distance, down, across = (
            cv2.remap(grid.astype(np.float32), *at, cv2.INTER_LINEAR, borderValue=np.nan)[:, 0]
            for grid in (field, *slopes)
        )
        distance = distance + 0.5
        used = np.isfinite(distance + down + across) & (np.abs(distance) < FARTHEST * width)
        if used.sum() < FEWEST:
            break
        x, y, z, distance = x[used], y[used], z[used], distance[used]
        down, across = down[used], across[used]
        # Derivative of the distance by the point in the camera's frame, then by the camera's turn
        # and move, which carry the point the other way.
        by_point = np.stack(
            [across * fx / z, -down * fy / z, (across * fx * x - down * fy * y) / z**2], axis=1
        )
        rows = -np.hstack([np.cross(local[used], by_point), by_point])
        counts = 1 / np.maximum(1, np.abs(distance) / HUBER)
        hold = WEIGHT * len(z) * fx**2 * np.repeat([1, 1 / np.median(z) ** 2], 3)
        away = np.concatenate([
            cv2.Rodrigues(given[:3, :3].T @ camera[:3, :3])[0][:, 0],
            camera[:3, :3].T @ (camera[:3, 3] - given[:3, 3]),
        ])
        step = -np.linalg.solve(
            rows.T @ (counts[:, None] * rows) + np.diag(hold),
            rows.T @ (counts * distance) + hold * away,
        )
        camera = camera.copy()
        camera[:3, 3] += camera[:3, :3] @ step[3:]
        camera[:3, :3] = camera[:3, :3] @ cv2.Rodrigues(step[:3])[0]
    return camera


def laid_on(cameras, others, points):
    """Return cameras (V, 4, 4) in the similar world that shows points most alike to the others.

    The world is moved, turned and scaled by small amounts so that `points` (N, 3), where the
    cameras see them, come near to where the others do, across the lines of sight: linear least
    squares.
    """
    cross = np.zeros((len(points), 3, 3))               # cross[n] @ w = w x points[n]
    cross[:, [0, 1, 2], [1, 2, 0]] = points[:, [2, 0, 1]]
    cross[:, [0, 1, 2], [2, 0, 1]] = -points[:, [1, 2, 0]]
    moves = np.concatenate(
        [np.broadcast_to(np.eye(3), cross.shape), cross, points[..., None]], axis=-1
    )
    left, right = np.zeros((7, 7)), np.zeros(7)
    for camera, other in zip(cameras, others):
        carry = other @ np.linalg.inv(camera)           # what one sees at x, the other sees at this
        shown = points @ carry[:3, :3].T + carry[:3, 3]
        sight = shown - other[:3, 3]
        depth = np.linalg.norm(sight, axis=1)
        sight /= depth[:, None]
        across = (np.eye(3) - sight[:, :, None] * sight[:, None]) / depth[:, None, None]
        rows = across @ moves
        left += np.einsum("nij,nik->jk", rows, rows)
        right += np.einsum("nij,nik,nk->j", rows, across, shown - points)
    found = np.linalg.solve(left, right)
    turn = cv2.Rodrigues(found[3:6])[0]
    out = cameras.copy()
    out[:, :3, :3] = turn @ cameras[:, :3, :3]
    out[:, :3, 3] = (1 + found[6]) * cameras[:, :3, 3] @ turn.T + found[:3]
    return out
