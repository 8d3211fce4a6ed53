"""Pictures in and out: list, load, composite, save (numpy, Pillow only).

Images are PIL RGBA or uint8 (H, W, C), alpha straight.
"""
import logging
import os
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sgm.common.errors import InputError
from sgm.common.files import atomic

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


def composite(image, background=WHITE):
    """RGBA (PIL or uint8 (H, W, 4)) over a colour of three levels -> uint8 (H, W, 3), truncated like the reference."""
    return (over(np.asarray(image), background) * 255).astype(np.uint8)


def over(rgba, background=WHITE):
    """Return uint8 (..., 4) over a color of three levels as float64 (..., 3) in [0, 1], as stored: sRGB is not linearized."""
    rgba = rgba / 255
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + np.divide(background, 255) * (1 - alpha)


def save_png(path, image):
    """Write a uint8 array (H, W), (H, W, 3 or 4) or a PIL image as PNG, whole or not at all. Raises InputError."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")


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


class ImageError(InputError):
    """An image that cannot be used; the message is one line, names the file or flag and says what to do."""
