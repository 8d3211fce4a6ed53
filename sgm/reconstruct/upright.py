"""Which way is up: other worlds are turned to z up, as all priors and GLB files need it."""
import logging

import cv2
import numpy as np

from sgm.common.errors import argument
from sgm.reconstruct.posed_views import ShapeError
from sgm.views.images import orientation

# The rotation from a world with this axis up to one with z up.
TO_Z_UP = {"z": np.eye(3), "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])}
UPS = ("auto", *TO_Z_UP)
NEAR = np.cos(np.radians(45))   # cosine between the cameras' mean up and an axis that is up
LEVEL = 0.02    # root mean square of an axis along the cameras' right of cameras held level
# Up is told by cameras held about level on several sides: at least so many, whose rights are along
# it by a root mean square of at most ROLLED, and spread around it by at least the mean square
# AROUND; so large a share of them has its own up on that side.
ENOUGH, ROLLED, AROUND, SAME_SIDE = 8, np.sin(np.radians(8)), 0.15, 0.9
SLANT = np.cos(np.radians(2))   # cosine to an axis above which up is that axis
# Where up is in a camera's x and y, by its picture's EXIF orientation
TURNED = {1: (0, 1), 2: (0, 1), 3: (0, -1), 4: (0, -1), 5: (-1, 0), 6: (-1, 0), 7: (1, 0),
          8: (1, 0)}
log = logging.getLogger("sgm")


def turned_upright(views, up="auto", source="the views"):
    """Return `views` as read, turned so that z is up.

    up: "y", "z", "X,Y,Z" (a direction in the world of the views) or "auto", which looks at the
    cameras. `source` is what messages call the views. Raises ShapeError for another `up`.
    """
    turn = rotation(up)
    if turn is None:
        found = told_up(*_ups_and_rights(views))
        turn = TO_Z_UP[_axis(views, source)] if found is None else _to_z_up(found)
        if not np.array_equal(turn, TO_Z_UP["z"]):
            log.info("%s: the cameras' up is (%.3f, %.3f, %.3f) in their world (%s z says"
                     " otherwise)", source, *turn[2], argument("up"))
    return views if np.array_equal(turn, TO_Z_UP["z"]) else views.turned(turn)


def rotation(up):
    """Return the rotation (3, 3) to z up from a world with this `up`; None for "auto".

    Raises ShapeError for what is neither that nor "y", "z" or a direction "X,Y,Z".
    """
    if up == "auto":
        return None
    if up in TO_Z_UP:
        return TO_Z_UP[up]
    try:
        found = np.array([float(part) for part in str(up).split(",")])
    except ValueError:
        found = np.zeros(0)
    if found.shape != (3,) or not 1e-9 < np.linalg.norm(found) < 1e9:
        raise ShapeError(
            f"{argument('up')}: found {up!r}, expected one of {', '.join(UPS)}, or a direction"
            " X,Y,Z in the views' world"
        )
    return _to_z_up(found / np.linalg.norm(found))


def told_up(ups, rights):
    """Return the direction to which cameras' rights are most perpendicular, (3,), or None.

    Whoever takes photographs holds the camera level, wherever it looks: least squares of the
    cameras' rights (V, 3) along the direction. Their ups (V, 3) tell its sign. None if too few
    cameras, rolled or from one side, leave it uncertain. Within SLANT of an axis it is the axis.
    """
    values, vectors = np.linalg.eigh(rights.T @ rights / len(rights))
    found = vectors[:, 0] * np.sign(ups.mean(0) @ vectors[:, 0])
    is_certain = (
        len(rights) >= ENOUGH
        and values[0] <= ROLLED**2
        and values[1] >= AROUND
        and (ups @ found > 0).mean() >= SAME_SIDE
    )
    if not is_certain:
        return None
    axis = np.where(np.abs(found) >= SLANT, np.sign(found), 0.0)
    return axis if axis.any() else found


def _to_z_up(found):
    """Return the rotation that brings a direction (3,) up: from y that of TO_Z_UP, then the least.
    """
    start = TO_Z_UP["y" if found[1] > NEAR else "z"]
    there = start @ found
    axis = np.cross(there, [0, 0, 1])
    sine = np.linalg.norm(axis)
    if sine < 1e-9:                     # it is up, or down: then half a turn about x
        return start if there[2] > 0 else np.diag([1.0, -1, -1]) @ start
    return cv2.Rodrigues(axis / sine * np.arctan2(sine, there[2]))[0] @ start


def _ups_and_rights(views):
    """Return the directions (V, 3) that are up and right in the pictures.

    A camera that was turned says so in its picture's EXIF data.
    """
    turns = [TURNED[orientation(file)] for file in views.files] or [TURNED[1]] * len(views)
    ups = np.einsum("vij,vj->vi", views.c2w[:, :3, :2], turns)
    rights = np.einsum("vij,vj->vi", views.c2w[:, :3, :2], np.roll(turns, 1, axis=1))
    return ups, rights


def _axis(views, source):
    """Return "y" or "z": the axis that is up for the cameras; z with a warning if neither is.

    Their mean up must be near it, and their right must be level about it rather than about the
    other: cameras that look down steeply from one side have a slanted up. Those that are exactly
    level about one axis tell it anyway.
    """
    ups, rights = _ups_and_rights(views)
    mean = ups.mean(0)
    up = mean / max(np.linalg.norm(mean), 1e-12)
    tilt = np.sqrt(np.square(rights).mean(0))
    for axis, this, other in (("z", 2, 1), ("y", 1, 2)):
        near = up[this] >= NEAR and tilt[this] <= tilt[other] + LEVEL
        if up[this] > 0 and (near or tilt[this] < LEVEL <= tilt[other]):
            return axis
    log.warning("%s: which way is up is not clear, the cameras' mean up is (%.2f, %.2f, %.2f); z is"
                " taken: give %s y, z or a direction X,Y,Z", source, *mean, argument("up"))
    return "z"
