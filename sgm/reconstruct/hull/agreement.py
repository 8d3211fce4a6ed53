"""How far the views of an orbit agree: in their outlines, and in their colors (no gradients)."""
import cv2
import numpy as np

from sgm.reconstruct.hull import sdf_grid, visual_hull
from sgm.reconstruct.hull.scene_box import LOW, coverage
from sgm.reconstruct.posed_views import HALF
from sgm.views.cameras import project

SOLID = 0.99        # alpha from which a pixel's color is the object's alone
BEHIND = 2.5        # cells behind what a view sees first, up to which it still sees a point
MIN_OTHERS = 3      # views that a point must be seen by, beyond the one compared
ROW = 1024          # places that are looked up in a row


def outline_coverage(views, resolution=LOW):
    """Return how much of the masks the hull of `views`, in the box |x| <= HALF, covers: [0, 1]."""
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, resolution, HALF), HALF)
    return coverage(sdf, views)


def color_residual(views, quantiles=(0.5, 0.9), resolution=LOW):
    """Return how far each view's colors are from what the others show there, (V, Q) float64.

    views: in the box |x| <= HALF. Every pixel of the object is compared with the median of
    `elsewhere`, on the views' hull (which a tenth of them may contradict). Its difference is the
    root mean square over the channels, levels in [0, 1]. The result is quantiles over a view's
    pixels: the median tells drift and is hardly moved where the hull is not the shape; a high one
    tells highlights too. NaN for a view none of whose pixels MIN_OTHERS others see.
    """
    sdf = visual_hull.hull_sdf(views, resolution, HALF, len(views) // 10)
    out = np.full((len(views), len(quantiles)), np.nan)
    for k, (own, others) in enumerate(elsewhere(views, visual_hull.closed(sdf, HALF))):
        if len(own):
            expected = np.nanmedian(others, axis=0)
            out[k] = np.quantile(np.sqrt(np.square(own - expected).mean(1)), quantiles)
    return out


def elsewhere(views, sdf, most=None):
    """Yield, for each view, the colors of its pixels (N, 3) and what the others show there.

    The others' are (V, N, 3) float32, NaN where a view does not see the place, and in that of the
    view itself. Colors are the object's alone, without alpha. Every pixel of the object is carried
    on a closed distance grid `sdf` to the other views; those that MIN_OTHERS of them see count.
    most: number of pixels of a view that are looked at, evenly spread; None = all.
    """
    seen, distances = sdf_grid.silhouettes(sdf, HALF, views)
    solid = views.mask > SOLID
    colors = views.rgb / np.maximum(views.mask, SOLID)[..., None]
    focal, middle = (views.fl_x, views.fl_y), (views.cx, views.cy)
    places, own, depths = [], [], np.full(seen.shape, -np.inf, np.float32)
    for k in range(len(views)):
        rows, columns = np.nonzero(seen[k])
        origins, directions = views.rays(np.full(len(rows), k), rows, columns)
        points = origins + directions * distances[k][seen[k]][:, None]
        depths[k][seen[k]] = project(points, views.c2w[k], focal, *middle)[1]
        chosen = np.flatnonzero(solid[k][seen[k]])
        chosen = chosen[:: -(-len(chosen) // most) or 1] if most else chosen
        places.append(points[chosen])
        own.append(colors[k][seen[k]][chosen])
    slack = BEHIND * 2 * HALF / (sdf.shape[0] - 1)
    for k, points in enumerate(places):
        others = np.full((len(views), len(points), 3), np.nan, np.float32)
        for j in range(len(views)):
            if j == k or not len(points):
                continue
            pixels, depth = project(points, views.c2w[j], focal, *middle)
            visible = _at(solid[j].astype(np.float32), pixels) > SOLID
            visible &= depth < _at(depths[j], pixels, cv2.INTER_NEAREST, -np.inf) + slack
            others[j, visible] = _at(colors[j], pixels[visible])
        enough = np.isfinite(others[..., 0]).sum(0) >= MIN_OTHERS
        yield own[k][enough], others[:, enough]


def _at(image, pixels, how=cv2.INTER_LINEAR, beyond=0):
    """Return what an image (H, W) or (H, W, 3) has at pixels (N, 2), (N,) or (N, 3)."""
    if not len(pixels):
        return np.zeros((0, *image.shape[2:]), np.float32)
    # OpenCV takes no more than 32766 in a row
    padded = np.zeros((-(-len(pixels) // ROW) * ROW, 2), np.float32)
    padded[:len(pixels)] = pixels - 0.5
    x, y = padded.T.reshape(2, -1, ROW)
    found = cv2.remap(image, x, y, how, borderValue=beyond)
    return found.reshape(-1, *image.shape[2:])[:len(pixels)]
