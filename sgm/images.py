"""Pictures in and out: load, recentre, composite, to and from the network, contact sheets (numpy, Pillow only).

Cutting out is in matte.py. Images are PIL RGBA or uint8 (H, W, C), alpha straight.
"""
import logging
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sgm.matte import ImageError, alpha_from_white, matte

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageError", "alpha_from_white", "composite", "contact_sheet",
           "from_network", "list_images", "load_image", "matte", "parse_background", "prepare", "read_image", "recentre",
           "save_png", "to_network"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# What is tried, whatever the file's name says. Not all that Pillow knows: one of them starts Ghostscript on the file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
MAX_PIXELS = 64_000_000     # of a file; a few bytes can decode to any number of pixels
MIN_SIDE, MIN_OBJECT = 16, 8    # pixels of an image's shorter side, and of the longer side of the object in it
WHITE = (255, 255, 255)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its remarks on damage stand beside our one line


def list_images(path):
    """The image file `path`, or the images in the folder `path`, sorted by name -> list of Path.

    Raises ImageError if there is no such file or folder, or no image in it.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path}: no such file or folder; give an image or a folder of images")
    files = sorted(f for f in path.iterdir()
                   if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file() and not f.name.startswith("."))
    if not files:
        raise ImageError(f"{path}: no image in this folder; expected files ending in {' '.join(IMAGE_SUFFIXES)}")
    return files


def load_image(path):
    """Reads an image file -> PIL RGBA (8 bit, straight alpha), turned upright by its EXIF orientation.

    All modes: grey, palette, with transparency, 16 bit (scaled, not clipped), CMYK. Raises ImageError: not readable as
    an image, truncated, more than MAX_PIXELS pixels, or all transparent.
    """
    image = read_image(path, lambda image: _rgba(ImageOps.exif_transpose(image)))
    if image.getchannel("A").getextrema()[1] == 0:
        raise ImageError(f"{path}: every pixel is transparent; save it with its object opaque, or without alpha")
    return image


def read_image(path, convert):
    """convert(PIL image) of an image file. Raises ImageError if the file is damaged, missing or too large."""
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # the limit of pixels is ours, and damage that can be read is not told
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width * image.height} pixels")
                return convert(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: found {re.search('[0-9]+', str(error))[0]} pixels, expected at most {MAX_PIXELS}"
                         f" ({MAX_PIXELS // 10**6} megapixels); make the image smaller") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; give an image") from None
    except Image.UnidentifiedImageError:
        found = "an empty file" if os.path.getsize(path) == 0 else "no image of a known kind"
        raise ImageError(f"{path}: found {found}, expected one of {', '.join(FORMATS)}; open it in a picture editor and"
                         " save it as PNG") from None
    # Pillow's decoders raise almost anything on damaged data: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(f"{path}: cannot be read as an image ({reason}); open it and save it again as PNG") from None


def _rgba(image):
    if image.mode.startswith("I"):      # 16 bit grey, whatever Pillow calls it; convert() would clip it at 255
        grey = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    return image.convert("RGBA")


def recentre(image, size, frame_ratio=None):
    """Puts the object of a PIL RGBA image into the middle of a transparent square -> PIL RGBA, size x size.

    The object is what has alpha > 0; it is never clipped. frame_ratio: its longer side divided by the frame's, in
    (0, 1]; None keeps the image's scale: the square's side is that of the image's longer side. Places pixels as the
    reference does, without its mistake of using the height of a landscape image. Raises ImageError.
    """
    if frame_ratio is not None and not 0 < frame_ratio <= 1:
        raise ImageError(f"--frame-ratio is {frame_ratio:g}; expected a number above 0, up to 1")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ImageError("the image is all transparent; there is no object to put into the frame")
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(image.size) if frame_ratio is None else int(max(width, height) / frame_ratio)
    if side * side > 4 * MAX_PIXELS:
        raise ImageError(f"--frame-ratio is {frame_ratio:g}: {max(width, height)} pixels of object in {side} of frame; "
                         "give a larger ratio")
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(image.crop(box), (side // 2 - width // 2, side // 2 - height // 2))
    return square.resize((size, size), Image.LANCZOS)       # Pillow weights the colours by alpha


def composite(image, background=WHITE):
    """RGBA (PIL or uint8 (H, W, 4)) over a colour of three levels -> uint8 (H, W, 3), truncated like the reference."""
    rgba = np.asarray(image) / 255
    alpha = rgba[..., 3:]
    return ((rgba[..., :3] * alpha + np.divide(background, 255) * (1 - alpha)) * 255).astype(np.uint8)


def prepare(image, size, frame_ratio=None, method="auto", cut_out=True):
    """A loaded image as the network shall see it -> (uint8 (H, W, 4), straight alpha; what was done, to be shown).

    size: pixels, or (H, W). cut_out: matte with `method` and recentre with `frame_ratio` (a square); otherwise the
    image as it is, scaled to cover the frame and cropped around its middle. Raises ImageError.
    """
    height, width = (size, size) if np.isscalar(size) else size
    if min(image.size) < MIN_SIDE:
        raise ImageError(f"the image is {image.width} x {image.height} pixels, expected at least {MIN_SIDE} x {MIN_SIDE};"
                         " give a larger one")
    if cut_out:
        if height != width:
            raise ImageError(f"--size is {height}x{width}; a cut-out object takes a square frame")
        cut, how = matte(image, method)
        left, top, right, bottom = cut.getchannel("A").getbbox() or (0, 0, 0, 0)
        if 0 < max(right - left, bottom - top) < MIN_OBJECT:
            raise ImageError(f"the object (what is not transparent) is {right - left} x {bottom - top} pixels, expected at"
                             f" least {MIN_OBJECT} along its longer side; give a larger image of it")
        return np.asarray(recentre(cut, width, frame_ratio)), how
    if frame_ratio is not None:
        raise ImageError("--frame-ratio places an object that is cut out; leave it out, or --no-matte (svd: always)")
    return np.asarray(ImageOps.fit(image.convert("RGBA"), (width, height), Image.LANCZOS)), "none: image as it is"


def to_network(rgb):
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [-1, 1]."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]).astype(np.float32) / 255 * 2 - 1


def from_network(frames):
    """float (T, 3, H, W) in [-1, 1], clipped -> uint8 (T, H, W, 3), truncated as the reference does."""
    levels = np.clip(np.asarray(frames, np.float32) * 0.5 + 0.5, 0, 1) * 255
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def contact_sheet(frames, columns=7):
    """Equally large frames, uint8 (T, H, W, 3 or 4), side by side on white, row by row -> PIL RGB."""
    frames = np.asarray(frames)
    if frames.shape[-1] == 4:
        frames = np.stack([composite(frame) for frame in frames])
    count, height, width, _ = frames.shape
    columns = min(columns, count)
    sheet = np.full((-(-count // columns) * height, columns * width, 3), 255, np.uint8)
    for k, frame in enumerate(frames):
        y, x = k // columns * height, k % columns * width
        sheet[y:y + height, x:x + width] = frame
    return Image.fromarray(sheet)


def save_png(path, image):
    """Writes a uint8 array (H, W), (H, W, 3 or 4) or a PIL image as PNG: whole, or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    try:
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parse_background(text):
    """--background: "transparent" stays, "white" -> (255, 255, 255), "R,G,B" -> three levels of 0..255."""
    if text == "transparent":
        return text
    if text == "white":
        return WHITE
    parts = text.split(",")
    if len(parts) == 3 and all(re.fullmatch("[0-9]{1,3}", part.strip()) for part in parts):
        levels = tuple(int(part) for part in parts)
        if max(levels) <= 255:
            return levels
    raise ImageError(f"--background is {text!r}; expected transparent, white or R,G,B with levels of 0 to 255")
