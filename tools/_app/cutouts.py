"""Uploaded pictures and what is cut out of them, corrected by a threshold and a brush."""
import os
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sgm.common.errors import InputError
from sgm.views import preprocessing
from sgm.views.images import ImageError, read_image, upright_rgba
from sgm.views.matting import MATTE_SIDE, by_color, cuts_out, drawn, matte

MOST_KEPT = 40          # pictures; one is up to 13 MB in memory
MAX_PAINTED = 4 << 20   # bytes of a brush's strokes
REMOVE, KEEP = "#e62828", "#1e9e3c"     # colors of the brush
MARGIN = 0.04           # around an object that fills its picture, of the longer side
PAINTED = 64            # alpha from which a pixel of a stroke counts


@dataclass
class Cutout:
    """A picture of a user.

    name: of its file; given, first: itself, and what was cut out of it (PIL RGBA of one size); how:
    it was cut out, as text; doubt: why it may be wrong, or "". base: `first`, or what a threshold
    cuts out; strokes (h, w) int8: -1 where the brush removes, 1 where it keeps.
    """
    name: str
    given: Image.Image
    first: Image.Image
    how: str
    doubt: str

    def __post_init__(self):
        self.reset()

    def reset(self):
        """Undo all corrections."""
        self.base, self.strokes = self.first, np.zeros(self.given.size[::-1], np.int8)

    @property
    def cut(self):
        """Return what is cut out, with corrections, PIL RGBA."""
        cut, given = np.array(self.base), np.asarray(self.given)
        cut[self.strokes < 0, 3] = 0
        keep = self.strokes > 0
        cut[keep, :3], cut[keep, 3] = given[keep, :3], 255
        return Image.fromarray(cut)

    @property
    def stem(self):
        """Return the file's name without suffix."""
        return Path(self.name).stem


class Cutouts:
    """The pictures of all users by a token, which only its user knows.

    side: pixels of the network's input, a square.
    """

    def __init__(self, side):
        self.side, self.kept, self.lock = side, OrderedDict(), threading.Lock()
        self.method = "auto" if has_rembg() else "border"

    def add(self, name, data):
        """Return (token, Cutout) of an image file's content. Raises ImageError."""
        name = Path(name).name[:100] or "image"
        given = read_image(name, lambda image: upright_rgba(image, name), data=data)
        if given.getchannel("A").getextrema()[1] == 0:
            raise ImageError(f"{name}: every pixel is transparent; save it with its object opaque")
        if min(given.size) < 16:
            raise ImageError(f"{name}: found {given.width} x {given.height} pixels, expected at"
                             " least 16 x 16")
        given.thumbnail((MATTE_SIDE, MATTE_SIDE), Image.LANCZOS)
        try:
            cut, how, doubt = matte(given, self.method if not cuts_out(given) else "alpha")
        except ImageError as error:     # no object is found: the brush may mark it
            cut, how, doubt = given.copy(), "", str(error)
            cut.putalpha(0)
        if cut.size != given.size:
            given = given.resize(cut.size, Image.LANCZOS)
        found = Cutout(name, given, cut, how, doubt or "")
        token = secrets.token_urlsafe(16)
        with self.lock:
            self.kept[token] = found
            while len(self.kept) > MOST_KEPT:
                self.kept.popitem(last=False)
        return token, found

    def get(self, token):
        """Return the Cutout of a token. Raises InputError."""
        with self.lock:
            found = self.kept.get(token)
        if found is None:
            raise InputError("found no picture, expected one; choose an image first (the oldest of"
                             f" {MOST_KEPT} are forgotten)")
        return found

    def paint(self, token, strokes):
        """Cut away what is painted in REMOVE and keep what is in KEEP; return the Cutout.

        strokes: content of a PNG with alpha, of any size. Raises ImageError.
        """
        found = self.get(token)
        if len(strokes) > MAX_PAINTED:
            raise ImageError(f"strokes: found {len(strokes)} bytes, expected at most {MAX_PAINTED}")
        layer = read_image("strokes", lambda image: image.convert("RGBA"), strokes, ("PNG",))
        layer = np.asarray(layer.resize(found.given.size, Image.BILINEAR)).astype(int)
        painted, is_red = layer[..., 3] >= PAINTED, layer[..., 0] > layer[..., 1]
        found.strokes = np.where(painted, np.where(is_red, -1, 1), found.strokes)
        return found

    def threshold(self, token, percent):
        """Cut a picture out by a threshold, below the brush's strokes; return the Cutout.

        percent: of the alpha that the picture or the network gave it, less of which is cut away;
        without one, of the levels of color within which a place is background. Raises InputError.
        """
        found, level = self.get(token), percent * 255 / 100
        if not 0 < percent < 100:
            raise InputError(f"threshold: found {percent}, expected percent between 0 and 100")
        if found.how.startswith(("alpha", "rembg")):
            base = np.array(found.first)
            base[base[..., 3] < level, 3] = 0
            found.base = Image.fromarray(base)
        else:
            found.base = by_color(found.given, level)
        return found

    def reset(self, token):
        """Undo all corrections."""
        self.get(token).reset()

    def picture(self, token):
        """Return the picture with what is cut away in red, PIL RGB."""
        found = self.get(token)
        return Image.fromarray(drawn(found.given, found.cut))

    def save(self, token, path):
        """Write what is cut out as a PNG. Raises ImageError if the network cannot take it."""
        found = self.get(token)
        cut = found.cut
        preprocessing.prepare(cut, self.side, method="alpha", name=found.name)
        if not cuts_out(cut):           # else the command would look for the object once more
            cut = ImageOps.expand(cut, round(MARGIN * max(cut.size)), (0, 0, 0, 0))
        cut.save(path, format="PNG")


def has_rembg():
    """Return whether rembg is installed with its network: it would download that at first use."""
    home = Path(os.environ.get("U2NET_HOME") or Path.home() / ".u2net")
    return find_spec("rembg") is not None and (home / "u2net.onnx").is_file()
