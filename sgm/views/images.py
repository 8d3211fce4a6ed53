"""Lists, loads, composites and saves pictures (numpy and Pillow only).

Images are PIL RGBA or uint8 (H, W, C), with straight alpha. `read_image` is the only place that
opens one.
"""
import hashlib
import io
import logging
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from sgm.common.errors import InputError, argument, one_line, os_reason
from sgm.common.files import atomic, check_file, natural_key

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Formats that are tried, whichever ending the file has: not all of Pillow's, one of which starts
# Ghostscript on the file.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
MAX_PIXELS = 64_000_000     # largest image file: a few bytes can decode to any number
# pixels of an image's shorter side, and of the longer side of the object in it
MIN_SIDE, MIN_OBJECT = 16, 8
WHITE = (255, 255, 255)
# What undoes the turn of EXIF's orientations
BACK = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339    # tags of TIFF
SIGNED = 2                                          # a value of SAMPLE_FORMAT
# of white, red, green and blue, x and y
SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
DARK = 4096                 # levels of 16 bits: less is nearly black, or a picture of 8 to 12 bits
ADOBE_RGB = "R03"           # as cameras' Exif data call it
ICC_NOISE = 2               # levels by which a profile of sRGB may differ from ours
log = logging.getLogger("sgm")
# else its remarks on damage appear next to our line
logging.getLogger("PIL").addHandler(logging.NullHandler())


def list_images(path):
    """Return the image file `path`, or the images in the folder `path` in natural order, as a list.

    Raises ImageError if there is no such file or folder, or no image in it.
    """
    path = Path(path)
    check_file(path, ImageError)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path}: no such file or folder; give an image or a folder of images")
    files = sorted((f for f in path.iterdir()
                    if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()
                    and not f.name.startswith(".")), key=natural_key)
    if not files:
        raise ImageError(f"{path}: no image in this folder; expected files ending in"
                         f" {' '.join(IMAGE_SUFFIXES)}")
    return files


def load_image(path, upright=True):
    """Return an image file as PIL RGBA (8 bit, straight alpha), turned upright by its EXIF data.

    upright: False leaves the pixels as they are stored, as cameras and masks of views know them.
    All modes are read: gray, palette, with transparency, 16 and 32 bit and floats (scaled, not
    clipped), CMYK. Colors are converted to sRGB if the file has an ICC profile. Raises ImageError:
    not readable as an image, truncated, more than MAX_PIXELS pixels, or all transparent.
    """
    convert = upright_rgba if upright else stored_rgba
    image = read_image(path, lambda image: convert(image, path))
    if image.getchannel("A").getextrema()[1] == 0:
        raise ImageError(f"{path}: every pixel is transparent; save it with its object opaque, or"
                         " without alpha")
    return image


def file_hash(path):
    """Return the hash of an image file as "sha256:...". Raises ImageError."""
    check_file(path, ImageError)
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {os_reason(error)}") from None
    return f"sha256:{digest.hexdigest()}"


def orientation(path):
    """Return which way is up in an image file, as EXIF counts it: 1 (as stored) to 8.

    Its pixels are not decoded. Raises ImageError.
    """
    def tag(image):
        # of a PNG without it, all pixels would be read in search of it
        has_one = "exif" in image.info or image.format in ("TIFF", "MPO")
        return image.getexif().get(ExifTags.Base.Orientation, 1) if has_one else 1
    found = read_image(path, tag)
    return found if found in range(1, 9) else 1


def read_image(path, convert, data=None, formats=FORMATS):
    """Return convert(PIL image) of an image file, or of its content `data`, which `path` names.

    formats: those that are tried. Raises ImageError if the file is damaged, missing or too large.
    """
    Image.init()
    if data is None:
        check_file(path, ImageError)
    try:
        with warnings.catch_warnings():
            # our own limit applies, and readable damage is not reported
            warnings.simplefilter("ignore")
            known = [name for name in formats if name in Image.OPEN]
            # Not by its path: Pillow then maps the file, and maps turned TIFFs wrongly.
            with (open(path, "rb") if data is None else io.BytesIO(data) as file,
                  Image.open(file, formats=known) as image):
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width * image.height} pixels")
                _scale_transparent_level(image)
                return convert(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: found {re.search('[0-9]+', str(error))[0]} pixels, expected at"
                         f" most {MAX_PIXELS} ({MAX_PIXELS // 10**6} megapixels); make the image"
                         " smaller") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; give an image") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: found {_kind_of(path, data)}, expected one of"
                         f" {', '.join(formats)}; open it in a picture editor and save it as"
                         " PNG") from None
    # Pillow's decoders raise almost anything on damaged data: OSError, SyntaxError, ValueError,
    # struct.error, ...
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(f"{path}: cannot be read as an image ({reason}); open it and save it again"
                         " as PNG") from None


def upright_rgba(image, path):
    """Return an opened PIL image as `to_rgba` does, turned upright by its EXIF data."""
    image.load()                        # Pillow turns a TIFF when it is loaded
    turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    rgba = to_rgba(image, path)
    rgba.getexif()[ExifTags.Base.Orientation] = turned
    ImageOps.exif_transpose(rgba, in_place=True)
    return rgba


def stored_rgba(image, path):
    """Return an opened PIL image as `to_rgba` does, its pixels in the order they are stored."""
    return stored(image, lambda image: to_rgba(image, path))


def stored(image, convert):
    """Return convert(an opened PIL image), a PIL image, its pixels in the order they are stored."""
    # Pillow turns a TIFF when it is loaded
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) if image.format == "TIFF" else 1
    converted = convert(image)
    return converted.transpose(BACK[turned]) if turned in BACK else converted


def _kind_of(path, data):
    """Return what a file is that Pillow does not know, by its first bytes."""
    if data is None:
        with open(path, "rb") as file:
            data = file.read(4)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "a TIFF of an unusual kind (colors of more than 16 bits, or floats)"
    return "no image of a known kind" if data else "an empty file"


def to_rgba(image, path, use_profile=True):
    """Return an opened PIL image as RGBA, 8 bit, straight alpha, sRGB by its ICC profile.

    path: what messages call it. Without `use_profile` the levels are returned as stored. Raises
    ImageError for floats whose range says nothing.
    """
    profile = image.info.get("icc_profile") if use_profile else None
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image, path)
    rgba = None
    if profile:
        rgba = _by_profile(image, profile, path)
    elif use_profile:
        _warn_of_other_colors(image, path)
    return image.convert("RGBA") if rgba is None else rgba


def _scale_transparent_level(image):
    """Bring the level that a PNG file calls transparent to the 8 bits of Pillow's pixels."""
    level = image.info.get("transparency")
    raw = image.tile[0].args if image.format == "PNG" and image.tile else None
    if isinstance(level, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = level * 255 // (2 ** int(raw[2:]) - 1)
    elif isinstance(level, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in level)


def _eight_bits(image, path):
    """Return a gray image of 16 or 32 bits, or of floats, as L or LA; convert() would clip it."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    bits, is_signed = tags.get(BITS, (16,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    if image.mode == "F":
        full = _range_of_floats(values, path)
    else:
        full = 2 ** (bits - is_signed) - 1
        if bits == 32 and not is_signed:
            values = values.view(np.uint32)         # Pillow reads them as signed
        if bits == 32 and values.max() <= 65535:    # 16 bits in a wider file
            full = 65535
        elif bits == 32 and values.max() < full / 256:
            raise ImageError(f"{path}: found levels up to {values.max()} of {full}, which is black;"
                             " save it with 8 or 16 bits")
        elif bits == 16 and 0 < values.max() < DARK:
            log.warning("%s: its levels go up to %d of %d, so it is nearly black; save it with 8"
                        " bits if they are meant otherwise", one_line(str(path)), values.max(),
                        full)
    levels = np.rint(np.clip(values / np.float32(full), 0, 1) * 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:                  # 0 is white, which Pillow turns for 8 bits only
        levels = 255 - levels
    gray = Image.fromarray(levels)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray


def _range_of_floats(values, path):
    """Return the float that stands for white: 1, or 255 or 65535 of whole numbers."""
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= high <= 1:
        return 1
    if 0 <= low <= high <= 65535 and (values == np.floor(values)).all():
        return 255 if high <= 255 else 65535
    raise ImageError(f"{path}: found floats from {low:g} to {high:g}, expected 0 to 1; save it with"
                     " 8 or 16 bits")


def _warn_of_other_colors(image, path):
    """Warn of an image that says without a profile that its levels are not sRGB."""
    said = None
    if "srgb" not in image.info and image.format == "PNG":
        gamma, places = image.info.get("gamma"), image.info.get("chromaticity")
        if gamma and abs(gamma - 1 / 2.2) > 0.02:
            said = f"a gamma of {gamma:g} (gAMA)"
        elif places and np.abs(np.subtract(places, SRGB_CHROMATICITIES)).max() > 0.01:
            said = "other primary colors (cHRM)"
    elif image.format in ("JPEG", "MPO"):
        exif = image.getexif()
        if (exif.get_ifd(ExifTags.IFD.Interop).get(1) == ADOBE_RGB
                or exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace) == 2):
            said = "colors of Adobe RGB (Exif)"
    if said:
        log.warning("%s: has %s and no ICC profile, so its colors are taken as sRGB; save it again"
                    " as sRGB", one_line(str(path)), said)


def _by_profile(image, profile, path):
    """Return an image as sRGB RGBA by its ICC profile, or None if it is sRGB already.

    A profile that cannot be used is warned of, and the levels are then taken as sRGB.
    """
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}[space]
        if (mode == "CMYK") != (image.mode == "CMYK") or mode == "L" and image.mode[0] not in "1L":
            raise ValueError(f"it is for {space}, the picture is {image.mode}")
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        samples = _samples(mode)
        change = np.asarray(ImageCms.applyTransform(samples, transform), int) - (
            np.asarray(samples.convert("RGB")))
        if mode != "CMYK" and np.abs(change).max() <= ICC_NOISE:
            return None
        alpha = image.convert("RGBA").getchannel("A")
        rgba = ImageCms.applyTransform(image.convert(mode), transform).convert("RGBA")
    except Exception as error:      # littlecms and the profile's parser raise anything on damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("%s: its ICC profile cannot be used (%s), so its colors are taken as sRGB; save"
                    " it again as sRGB", one_line(str(path)), one_line(reason))
        return None
    rgba.putalpha(alpha)
    return rgba


def _samples(mode):
    """Return a PIL image of levels all over a color space."""
    steps = np.arange(256) if mode == "L" else np.linspace(0, 255, 9)
    grid = np.stack(np.meshgrid(*[steps.astype(np.uint8)] * len(mode), indexing="ij"), axis=-1)
    return Image.frombytes(mode, (grid.size // len(mode), 1), grid.tobytes())


def as_levels(values):
    """Return values in [0, 1], give or take, as uint8."""
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


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
