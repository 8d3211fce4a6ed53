"""From a cut-out object to the image that a network was trained with, step by step as published.

VFusion3D and OpenLRM: the object in the middle of a white square, 0.8 of its side; TripoSR: on
grey, 0.85 of the side. The object's last row and column are lost, as in all three programs.
"""
import cv2
import numpy as np
from PIL import Image

from sgm.models.resampling import aligned_bicubic, antialiased_bilinear
from sgm.views.images import ImageError
from sgm.views.preprocessing import frame, recenter

BORDER = 0.2                    # share of the side that vfusion3d and openlrm leave free
OPENLRM_CANVAS = 512            # pixels of the square that openlrm's script places an object in
TRIPOSR_SHARE = 0.85            # of the side that the object takes up
VFUSION3D_ALPHA = 10            # of 255: more than this is the object
UPRIGHT_SHARE = 0.82            # of the side that the object takes up, of networks of our own


def network_image(rgba, spec):
    """Return the input (1, 3, S, S) float32 in [0, 1] of a network of an `LrmSpec`.

    rgba (H, W, 4) uint8, straight alpha, of an object that is cut out. Raises ImageError.
    """
    size = spec.image_size
    if spec.upright:
        return upright_image(rgba, size, UPRIGHT_SHARE)[None]
    if spec.family == "triposr":
        picture = on_grey(rgba) / np.float32(255)
        matrix = antialiased_bilinear
    else:
        if spec.family == "openlrm":
            rgba = reduced(rgba, 2 * OPENLRM_CANVAS)
            square = recentered(rgba, OPENLRM_CANVAS, box_of(rgba))
        else:
            height, width = rgba.shape[:2]
            box = box_of(rgba, VFUSION3D_ALPHA)
            square = recentered(rgba / np.float32(255), max(height, width), box)
            square = (square * 255).astype(np.uint8)
        picture = on_white(square)
        matrix = aligned_bicubic
    rows = matrix(picture.shape[0], size).astype(np.float32)
    columns = matrix(picture.shape[1], size).astype(np.float32)
    picture = picture.transpose(2, 0, 1)
    result = np.matmul(np.matmul(rows, picture), columns.T)[None]
    return np.clip(result, 0, 1)


def upright_image(rgba, size, share):
    """Return the input (3, S, S) float32 in [0, 1] of an upright network (`LrmSpec.upright`).

    rgba (H, W, 4) uint8, straight alpha: an object, which then takes up that share of the side, on
    white. Raises ImageError.
    """
    square = np.asarray(recenter(Image.fromarray(rgba), size, share))
    return np.ascontiguousarray(on_white(square).transpose(2, 0, 1))


def upright_intrinsics(rgba, share, intrinsics):
    """Return (fx, fy, cx, cy) of what `upright_image` makes of a view seen with `intrinsics`.

    All are shares of the image's sides. rgba (H, W, 4) uint8 as for `upright_image`.
    """
    left, top, side = frame(Image.fromarray(rgba).getchannel("A").getbbox(), share)
    height, width = rgba.shape[:2]
    fx, fy, cx, cy = intrinsics
    return (fx * width / side, fy * height / side,
            (cx * width - left) / side, (cy * height - top) / side)


def box_of(rgba, alpha=0):
    """Return (top, bottom, left, right) of what has more than `alpha`, of (H, W, 4) uint8.

    The last row and column are left out. Raises ImageError for less than two rows or columns.
    """
    rows, columns = np.nonzero(rgba[..., 3] > alpha)
    box = (rows.min(), rows.max(), columns.min(), columns.max()) if len(rows) else (0, 0, 0, 0)
    if box[0] == box[1] or box[2] == box[3]:
        raise ImageError("the image has less than two rows or columns that are not transparent,"
                         " expected an object; give an image of one")
    return tuple(int(x) for x in box)


def recentered(rgba, side, box):
    """Return the box of (H, W, 4) scaled to 1 - BORDER of a transparent square (side, side, 4).

    It has the type of `rgba`: uint8, or float in [0, 1].
    """
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    scale = int(side * (1 - BORDER)) / max(height, width)
    tall, wide = max(int(height * scale), 1), max(int(width * scale), 1)
    row, column = (side - tall) // 2, (side - wide) // 2
    square = np.zeros((side, side, 4), rgba.dtype)
    square[row:row + tall, column:column + wide] = cv2.resize(
        rgba[top:bottom, left:right], (wide, tall), interpolation=cv2.INTER_AREA)
    return square


def reduced(rgba, longest):
    """Return an image (H, W, 4) scaled so that its longer side has that many pixels."""
    height, width = rgba.shape[:2]
    scale = longest / max(height, width)
    return cv2.resize(rgba, (max(int(width * scale), 1), max(int(height * scale), 1)),
                      interpolation=cv2.INTER_AREA)


def on_white(rgba):
    """Return (H, W, 4) uint8 on white, float32 (H, W, 3) in [0, 1]."""
    values = rgba / np.float32(255)
    return values[..., :3] * values[..., 3:] + (1 - values[..., 3:])


def on_grey(rgba):
    """Return the object of (H, W, 4) uint8 in the middle of a grey square, uint8 (S, S, 3)."""
    top, bottom, left, right = box_of(rgba)
    object_ = rgba[top:bottom, left:right]
    side = max(object_.shape[:2])
    for length in (side, int(side / TRIPOSR_SHARE)):
        before = [(length - n) // 2 for n in object_.shape[:2]]
        after = [length - n - b for n, b in zip(object_.shape[:2], before)]
        object_ = np.pad(object_, [*zip(before, after), (0, 0)])
    values = object_ / np.float32(255)
    flat = values[..., :3] * values[..., 3:] + np.float32(0.5) * (1 - values[..., 3:])
    return (flat * 255).astype(np.uint8)
