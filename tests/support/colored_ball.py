"""Views of a ball whose color is its normal."""
import numpy as np

from sgm.reconstruct.posed_views import PosedViews
from sgm.views.cameras import Orbit

SIDE, FOCAL, DISTANCE, RADIUS = 40, 68.0, 2.0, 0.4


def ball_views():
    """A ball whose color is its normal, exactly."""
    poses = Orbit.dynamic(1, 10, 12).poses(DISTANCE)
    blank = PosedViews(np.zeros((12, SIDE, SIDE, 3), np.float32), np.zeros((12, SIDE, SIDE), np.float32), poses, FOCAL, FOCAL,
                  SIDE / 2, SIDE / 2)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    for k in range(12):
        o, d = (x.astype(np.float64) for x in blank.rays(np.full(len(rows), k), rows, columns))
        b = (o * d).sum(-1)
        inside = b * b - (o * o).sum(-1) + RADIUS ** 2
        t = -b - np.sqrt(np.maximum(inside, 0))
        normal = (o + t[:, None] * d) / RADIUS
        blank.mask[k] = (inside > 0).reshape(SIDE, SIDE)
        blank.rgb[k] = np.where(inside[:, None] > 0, 0.5 + 0.4 * normal, 0).reshape(SIDE, SIDE, 3)
    return blank
