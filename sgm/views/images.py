"""Lists, loads, composites and saves pictures (numpy and Pillow only).

Images are PIL RGBA or uint8 (H, W, C), with straight alpha.
"""
import hashlib
import logging
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sgm.common.errors import InputError, argument, os_reason
from sgm.common.files import atomic

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Formats that are tried, whichever ending the file has: not all of Pillow's, one of which starts
# Ghostscript on the file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
MAX_PIXELS = 64_000_000     # largest image file: a few bytes can decode to any number
# pixels of an image's shorter side, and of the longer side of the object in it
MIN_SIDE, MIN_OBJECT = 16, 8
WHITE = (255, 255, 255)
# else its remarks on damage appear next to our line
logging.getLogger("PIL").addHandler(logging.NullHandler())


def list_images(path):
    """Return the image file `path`, or the images in the folder `path` sorted by name, as a list.

    Raises ImageError if there is no such file or folder, or no image in it.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path}: no such file or folder; give an image or a folder of images")
    files = sorted(f for f in path.iterdir()
                   if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()
                   and not f.name.startswith("."))
    if not files:
        raise ImageError(f"{path}: no image in this folder; expected files ending in"
                         f" {' '.join(IMAGE_SUFFIXES)}")
    return files


def load_image(path):
    """Return an image file as PIL RGBA (8 bit, straight alpha), turned upright by its EXIF data.

    All modes are read: gray, palette, with transparency, 16 bit (scaled, not clipped), CMYK. Raises
    ImageError: not readable as an image, truncated, more than MAX_PIXELS pixels, or all
    transparent.
    """
    image = read_image(path, lambda image: _rgba(ImageOps.exif_transpose(image)))
    if image.getchannel("A").getextrema()[1] == 0:
        raise ImageError(f"{path}: every pixel is transparent; save it with its object opaque, or"
                         " without alpha")
    return image


def file_hash(path):
    """Return the hash of an image file as "sha256:...". Raises ImageError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {os_reason(error)}") from None
    return f"sha256:{digest.hexdigest()}"


def read_image(path, convert):
    """Return convert(PIL image) of an image file.

    Raises ImageError if the file is damaged, missing or too large.
    """
    Image.init()
    try:
        with warnings.catch_warnings():
            # our own limit applies, and readable damage is not reported
            warnings.simplefilter("ignore")
            formats = [name for name in FORMATS if name in Image.OPEN]
            with Image.open(path, formats=formats) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width * image.height} pixels")
                return convert(image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: found {re.search('[0-9]+', str(error))[0]} pixels, expected at"
                         f" most {MAX_PIXELS} ({MAX_PIXELS // 10**6} megapixels); make the image"
                         " smaller") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; give an image") from None
    except Image.UnidentifiedImageError:
        found = "an empty file" if os.path.getsize(path) == 0 else "no image of a known kind"
        raise ImageError(f"{path}: found {found}, expected one of {', '.join(FORMATS)}; open it in"
                         " a picture editor and save it as PNG") from None
    # Pillow's decoders raise almost anything on damaged data: OSError, SyntaxError, ValueError,
    # struct.error, ...
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(f"{path}: cannot be read as an image ({reason}); open it and save it again"
                         " as PNG") from None


def _rgba(image):
    # 16 bit gray, which has several names in Pillow; convert() would clip it at 255
    if image.mode.startswith("I"):
        gray = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        image = Image.fromarray(((gray + 128) // 257).astype(np.uint8))
    return image.convert("RGBA")


def composite(image, background=WHITE):
    """Return RGBA (PIL or uint8 (H, W, 4)) over a color of three levels: uint8 (H, W, 3).

    Truncated like the original.
    """
    return (over(np.asarray(image), background) * 255).astype(np.uint8)


def over(rgba, background=WHITE):
    """Return uint8 (..., 4) over a color of three levels: float64 (..., 3) in [0, 1].

    Values are composited as stored: sRGB is not linearized.
    """
    rgba = rgba / 255
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + np.divide(background, 255) * (1 - alpha)


def save_png(path, image):
    """Write a uint8 array (H, W), (H, W, 3 or 4) or a PIL image as PNG, whole or not at all.

    Raises InputError.
    """
    with atomic(path) as temporary:
        write_png(temporary, image)


def write_png(path, image):
    """Write an image as `save_png` does, into a folder that appears whole. Raises OSError."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, format="PNG")


def parse_background(text):
    """Return the value of --background: "transparent", or three levels of 0..255.

    text: "transparent", "white" or "R,G,B". Raises ImageError.
    """
    if text == "transparent":
        return text
    if text == "white":
        return WHITE
    parts = text.split(",")
    if len(parts) == 3 and all(re.fullmatch("[0-9]{1,3}", part.strip()) for part in parts):
        levels = tuple(int(part) for part in parts)
        if max(levels) <= 255:
            return levels
    raise ImageError(f"{argument('background')} is {text!r}; expected transparent, white or R,G,B"
                     " with levels of 0 to 255")


class ImageError(InputError):
    """An image that cannot be used; one line that names the file or flag and says what to do."""
