"""Converts pictures to the network's input and its output to pictures."""
import logging
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image, ImageOps

from sgm.common.errors import argument
from sgm.views.images import MAX_PIXELS, MIN_OBJECT, MIN_SIDE, ImageError
from sgm.views.matting import REMEDY, drawn, matte

log = logging.getLogger("sgm")


class Prepared(NamedTuple):
    """An image as the network gets it.

    image (H, W, 4) uint8, straight alpha; how: what was done, as text; matte (h, w, 3) uint8: the
    picture with what was cut away in red, or None where nothing was.
    """
    image: np.ndarray
    how: str
    matte: Optional[np.ndarray] = None


def recenter(image, size, frame_ratio=None):
    """Return the object of a PIL RGBA image in the middle of a transparent square, PIL RGBA.

    The result is size x size pixels. The object is what has alpha > 0; it is never clipped.
    frame_ratio: its longer side divided by the frame's, in (0, 1]; None keeps the image's scale:
    the square's side is that of the image's longer side. Places pixels as the reference does,
    without its mistake of using the height of a landscape image. Raises ImageError.
    """
    if frame_ratio is not None and not 0 < frame_ratio <= 1:
        raise ImageError(f"{argument('frame_ratio')} is {frame_ratio:g}; expected a number above"
                         " 0, up to 1")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ImageError("the image is all transparent; there is no object to put into the frame")
    left, top, side = frame(box, frame_ratio, max(image.size))
    if side * side > 4 * MAX_PIXELS:
        raise ImageError(f"{argument('frame_ratio')} is {frame_ratio:g}:"
                         f" {max(box[2] - box[0], box[3] - box[1])}"
                         f" pixels of object in {side} of frame; give a larger ratio")
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(image.crop(box), (box[0] - left, box[1] - top))
    return square.resize((size, size), Image.LANCZOS)       # Pillow weights the colors by alpha


def frame(box, frame_ratio, side=None):
    """Return (left, top, side), in an image's pixels, of the square that `recenter` cuts out.

    box: (left, top, right, bottom) of the object; side: of the square if frame_ratio is None.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    if frame_ratio is not None:
        side = int(max(width, height) / frame_ratio)
    return box[0] - (side // 2 - width // 2), box[1] - (side // 2 - height // 2), side


def cut_object(image, method="auto", name="the image"):
    """Return the object of a loaded image as a `sgm.views.matting.Cut`.

    name: of the image, for the warning that its object may be cut out badly. Raises ImageError,
    also for an image or an object that is too small.
    """
    _check_side(image)
    cut = matte(image, method)
    if cut.doubt:
        log.warning("%s: the object may be cut out badly, %s; look at input_matte.png, and if it is"
                    " wrong %s", name, cut.doubt, REMEDY)
    left, top, right, bottom = cut.image.getchannel("A").getbbox() or (0, 0, 0, 0)
    if 0 < max(right - left, bottom - top) < MIN_OBJECT:
        raise ImageError(f"the object (what is not transparent) is {right - left} x {bottom - top}"
                         f" pixels, expected at least {MIN_OBJECT} along its longer side; give a"
                         " larger image of it")
    return cut


def _check_side(image):
    if min(image.size) < MIN_SIDE:
        raise ImageError(f"the image is {image.width} x {image.height} pixels, expected at least"
                         f" {MIN_SIDE} x {MIN_SIDE}; give a larger one")


def prepare(image, size, frame_ratio=None, method="auto", cut_out=True, name="the image"):
    """Return a loaded image as `Prepared`.

    size: pixels, or (H, W). cut_out: matte with `method` and recenter with `frame_ratio` (a
    square); otherwise the image as it is, scaled to cover the frame and cropped around its middle.
    name: see `cut_object`. Raises ImageError.
    """
    _check_side(image)
    height, width = (size, size) if np.isscalar(size) else size
    if cut_out:
        if height != width:
            raise ImageError(f"{argument('size')} is {height}x{width}; a cut-out object takes a"
                             " square frame")
        cut = cut_object(image, method, name)
        square = np.asarray(recenter(cut.image, width, frame_ratio))
        return Prepared(square, cut.how, drawn(image, cut.image))
    if frame_ratio is not None:
        raise ImageError(f"{argument('frame_ratio')} places an object that is cut out; leave it"
                         f" out, or {argument('cut_out=False', '--no-matte')} (svd: always)")
    fitted = ImageOps.fit(image.convert("RGBA"), (width, height), Image.LANCZOS)
    return Prepared(np.asarray(fitted), "none: image as it is")


def to_network(rgb):
    """Return uint8 (H, W, 3) as float32 (1, 3, H, W) in [-1, 1]."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]).astype(np.float32) / 255 * 2 - 1


def from_network(frames):
    """Return float (T, 3, H, W), clipped to [-1, 1], as uint8 (T, H, W, 3).

    Truncated as the original does.
    """
    levels = np.clip(np.asarray(frames, np.float32) * 0.5 + 0.5, 0, 1) * 255
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))
