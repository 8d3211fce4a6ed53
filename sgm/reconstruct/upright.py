"""Which way is up: worlds whose up is y are turned to z up, as all priors and GLB files need it."""
import logging

import numpy as np

from sgm.common.errors import argument
from sgm.reconstruct.posed_views import ShapeError
from sgm.views.images import orientation

# The rotation from a world with this axis up to one with z up.
TO_Z_UP = {"z": np.eye(3), "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])}
UPS = ("auto", *TO_Z_UP)
NEAR = np.cos(np.radians(45))   # cosine between the cameras' mean up and an axis that is up
LEVEL = 0.02    # root mean square of an axis along the cameras' right of cameras held level
# Where up is in a camera's x and y, by its picture's EXIF orientation
TURNED = {1: (0, 1), 2: (0, 1), 3: (0, -1), 4: (0, -1), 5: (-1, 0), 6: (-1, 0), 7: (1, 0),
          8: (1, 0)}
log = logging.getLogger("sgm")


def turned_upright(views, up="auto", source="the views"):
    """Return `views` as read, turned so that z is up.

    up: "y", "z" or "auto", which looks at the cameras. `source` is what messages call the views.
    Raises ShapeError for another `up`.
    """
    if up not in UPS:
        raise ShapeError(f"{argument('up')}: found {up!r}, expected one of {', '.join(UPS)}")
    axis = _axis(views, source) if up == "auto" else up
    if axis == "z":
        return views
    if up == "auto":
        log.info("%s: the cameras' up is the y axis of their world (%s z says otherwise)", source,
                 argument("up"))
    return views.turned(TO_Z_UP[axis])


def _axis(views, source):
    """Return "y" or "z": the axis that is up for the cameras; z with a warning if neither is.

    Their mean up must be near it, and their right must be level about it rather than about the
    other: cameras that look down steeply from one side have a slanted up. Those that are exactly
    level about one axis tell it anyway. A camera that was turned says so in its picture's EXIF
    data.
    """
    turns = [TURNED[orientation(file)] for file in views.files] or [TURNED[1]] * len(views)
    ups = np.einsum("vij,vj->vi", views.c2w[:, :3, :2], turns)
    rights = np.einsum("vij,vj->vi", views.c2w[:, :3, :2], np.roll(turns, 1, axis=1))
    mean = ups.mean(0)
    up = mean / max(np.linalg.norm(mean), 1e-12)
    tilt = np.sqrt(np.square(rights).mean(0))
    for axis, this, other in (("z", 2, 1), ("y", 1, 2)):
        near = up[this] >= NEAR and tilt[this] <= tilt[other] + LEVEL
        if up[this] > 0 and (near or tilt[this] < LEVEL <= tilt[other]):
            return axis
    log.warning("%s: which way is up is not clear, the cameras' mean up is (%.2f, %.2f, %.2f); z is"
                " taken: give %s y or z", source, *mean, argument("up"))
    return "z"
