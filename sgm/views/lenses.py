"""Lenses: what a transforms.json says of one, and pictures as a common pinhole would see them.

Distortion is OpenCV's: the rational model of OPENCV cameras and the equidistant one of
OPENCV_FISHEYE. Pixel centers are at +0.5; OpenCV's are at 0, hence every 0.5 below.
"""
import reprlib
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from sgm.views.cameras import MAX_VALUE, CameraError, focal_length

MAX_IMAGE_SIDE = 1 << 16        # pixels; a larger image means a damaged file
SAME = 1e-3                     # relative difference of two numbers that say the same
ANGLE_SAME = 0.01               # the same of focal lengths, one of them from a rounded angle
SQUARE = 5e-3                   # relative difference of fl_x and fl_y of pixels taken for square
ALIKE = 1e-4                    # the same of two frames' numbers that are one camera's
NARROWEST = 0.1                 # focal length by picture side: less is no number of pixels
# Half the widest field of view that a pinhole picture gets, as a tangent (60 degrees): what lies
# outside is not drawn.
WIDEST = np.sqrt(3)
COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")      # OpenCV's order
# The order of nerfstudio's distortion_params
LISTED = ("k1", "k2", "k3", "k4", "p1", "p2")
# The camera models of COLMAP and nerfstudio, and the coefficients that each has; F: fisheye
MODELS = {
    "PERSPECTIVE": "", "PINHOLE": "", "SIMPLE_PINHOLE": "",
    "SIMPLE_RADIAL": "k1", "RADIAL": "k1 k2", "OPENCV": "k1 k2 p1 p2 k3",
    "FULL_OPENCV": "k1 k2 p1 p2 k3 k4 k5 k6",
    "OPENCV_FISHEYE": "F k1 k2 k3 k4", "FISHEYE": "F k1 k2 k3 k4",
    "SIMPLE_RADIAL_FISHEYE": "F k1", "RADIAL_FISHEYE": "F k1 k2",
}
SIZES = ("w", "h")
PIXELS = ("fl_x", "fl_y", "cx", "cy")
ANGLES = {"camera_angle_x": 1.0, "camera_angle_y": 1.0,
          "x_fov": np.pi / 180, "y_fov": np.pi / 180}     # by the unit of the key, in radians
# All keys that describe a lens; each may stand next to frames or in every frame
KEYS = (*SIZES, *PIXELS, *ANGLES, *COEFFICIENTS, "distortion_params", "camera_model", "is_fisheye",
        "fisheye_crop_radius")


@dataclass(frozen=True)
class Lens:
    """One camera's picture: size, focal lengths and principal point in pixels, distortion.

    distortion: OpenCV's coefficients in the order k1, k2, p1, p2, k3 ... k6, of a fisheye k1 ...
    k4; () is none. crop: radius around the picture's middle in pixels, beyond which a fisheye shows
    nothing, or None.
    """
    width: int
    height: int
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    fisheye: bool = False
    distortion: tuple = ()
    crop: float | None = None

    @property
    def is_pinhole(self):
        """Return whether straight lines are straight in its pictures and pixels are square."""
        bent = self.fisheye or bool(self.distortion) or self.crop is not None
        return not bent and abs(self.fl_y - self.fl_x) <= SQUARE * self.fl_x

    def of_size(self, width, height):
        """Return the same lens with pictures of another size."""
        sx, sy = width / self.width, height / self.height
        return replace(self, width=width, height=height, fl_x=self.fl_x * sx, fl_y=self.fl_y * sy,
                       cx=self.cx * sx, cy=self.cy * sy,
                       crop=None if self.crop is None else self.crop * sx)

    def is_like(self, other):
        """Return whether another lens is the same one, but for the size of its pictures."""
        other = other.of_size(self.width, self.height)
        pixels = [(lens.fl_x, lens.fl_y, lens.cx, lens.cy, lens.crop or 0)
                  for lens in (self, other)]
        return (self.fisheye == other.fisheye and self.distortion == other.distortion
                and np.abs(np.subtract(*pixels)).max() <= ALIKE * self.fl_x)

    def pixels(self, points):
        """Return where rays (N, 2), x right and y down at depth 1, meet the picture, and which do.

        Pixels are (N, 2); the second, (N,) bool, is False where a distortion that folds back shows
        the ray a second time, outside of the picture and beyond the fisheye's circle.
        """
        matrix = np.array([[self.fl_x, 0, self.cx], [0, self.fl_y, self.cy], [0, 0, 1]])
        coefficients = np.array(self.distortion or (0.0,) * 4)
        if self.fisheye:
            found = cv2.fisheye.distortPoints(points[:, None], matrix, coefficients)
        else:
            rays = np.concatenate([points, np.ones((len(points), 1))], axis=1)
            found, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, coefficients)
        found = found.reshape(-1, 2)
        shown = np.hypot(*points.T) < self._fold()
        with np.errstate(invalid="ignore"):
            shown &= ((found > 0) & (found < (self.width, self.height))).all(axis=1)
            if self.crop is not None:
                shown &= np.hypot(*(found - (self.width / 2, self.height / 2)).T) <= self.crop
        return found, shown

    def _fold(self):
        """Return the tangent of the angle at which the distortion folds back; inf if it does not.
        """
        if not self.distortion:
            return np.inf
        tangents = np.tan(np.linspace(0, np.arctan(20), 4001))
        radii = np.arctan(tangents) if self.fisheye else tangents
        square = radii ** 2
        if self.fisheye:
            factor = 1 + sum(k * square ** (i + 1) for i, k in enumerate(self.distortion))
        else:
            k1, k2, _, _, k3, k4, k5, k6 = np.pad(self.distortion, (0, 8 - len(self.distortion)))
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = (1 + square * (k1 + square * (k2 + square * k3))) / (
                    1 + square * (k4 + square * (k5 + square * k6)))
        falling = np.flatnonzero(~(np.diff(radii * factor) > 0))
        return tangents[falling[0]] if len(falling) else np.inf


def read_lens(where, fields, picture_size=None):
    """Return the Lens of a frame.

    where: what errors call it; fields: what the file says of it, see KEYS; picture_size: width and
    height of its picture, for a file that does not say them. Raises CameraError: values that
    are missing, wrong or contradict each other, and camera models that are not known.
    """
    width, height = picture_size or (number(where, fields, key) for key in SIZES)
    if not (1 <= width <= MAX_IMAGE_SIDE and 1 <= height <= MAX_IMAGE_SIDE):
        raise CameraError(f"{where}: w {width:g}, h {height:g}; expected pixels, sides up to"
                          f" {MAX_IMAGE_SIDE}: write the pictures' size")
    width, height = int(width), int(height)
    fisheye, distortion = _distortion(where, fields)
    fl_x, fl_y = _focal_lengths(where, fields, width, height, fisheye)
    cx, cy = (number(where, fields, key, half)
              for key, half in (("cx", width / 2), ("cy", height / 2)))
    if max(abs(cx), abs(cy)) <= 1 < min(width, height) / 4:
        raise CameraError(f"{where}: cx {cx:g}, cy {cy:g} of a picture of {width} x {height};"
                          " expected pixels, not shares of its sides")
    crop = fields.get("fisheye_crop_radius")
    if crop is not None:
        crop = number(where, fields, "fisheye_crop_radius")
        if not crop > 0:
            raise CameraError(f"{where}: fisheye_crop_radius is {crop:g}; expected pixels above 0")
    return Lens(width, height, fl_x, fl_y, cx, cy, fisheye, distortion, crop if fisheye else None)


def _focal_lengths(where, fields, width, height, fisheye):
    """Return fl_x and fl_y in pixels, from themselves or from angles of view."""
    lengths = {axis: number(where, fields, f"fl_{axis}")
               for axis in "xy" if f"fl_{axis}" in fields}
    for key, unit in ANGLES.items():
        # a fisheye's is written by the pinhole's formula by some programs, and not by others
        if fields.get(key) is None or fisheye:
            continue
        axis = "y" if "y" in key else "x"
        angle = number(where, fields, key) * unit
        if not 1e-6 < angle < np.pi:
            raise CameraError(f"{where}: {key} is {fields[key]:g}; expected "
                              + ("radians above 0 and below pi" if unit == 1 else
                                 "degrees above 0 and below 180"))
        found = float(focal_length(width if axis == "x" else height, np.rad2deg(angle)))
        known = lengths.setdefault(axis, found)
        if abs(known - found) > ANGLE_SAME * known:
            raise CameraError(f"{where}: {key} is {fields[key]:g}, a focal length of {found:.1f}"
                              f" pixels, but fl_{axis} is {known:.1f}; leave the wrong one out")
    if not lengths and fisheye:
        raise CameraError(f"{where}: is a fisheye and has no fl_x; add it, an angle of view does"
                          " not tell a fisheye's focal length")
    if not lengths:
        raise CameraError(f"{where}: has neither fl_x nor camera_angle_x; add one next to frames,"
                          " it holds for all views")
    fl_x = lengths.get("x", lengths.get("y"))
    fl_y = lengths.get("y", fl_x)
    if not (1e-3 <= fl_x <= MAX_VALUE and 1e-3 <= fl_y <= MAX_VALUE):
        raise CameraError(f"{where}: fl_x {fl_x:g}, fl_y {fl_y:g}; expected positive numbers"
                          " of pixels")
    if min(fl_x / width, fl_y / height) < NARROWEST:
        raise CameraError(f"{where}: fl_x {fl_x:g}, fl_y {fl_y:g} of a picture of {width} x"
                          f" {height} would be a view of nearly 180 degrees; expected pixels: "
                          "multiply by the picture's size if they are shares of it")
    return fl_x, fl_y


def _distortion(where, fields):
    """Return whether a lens is a fisheye, and its distortion as in `Lens`."""
    model = fields.get("camera_model")
    if model is not None and (not isinstance(model, str) or model.upper() not in MODELS):
        raise CameraError(f"{where}: camera_model is {reprlib.repr(model)[:40]}; expected a pinhole"
                          f" or one of {', '.join(list(MODELS)[3:])}: undistort the pictures, or"
                          " render them with a pinhole")
    of_model = MODELS[model.upper()].split() if model is not None else None
    said = fields.get("is_fisheye")
    if said not in (None, True, False, 0, 1):
        raise CameraError(f"{where}: is_fisheye is {reprlib.repr(said)[:40]}; expected true or"
                          " false")
    fisheye = bool(said) or of_model is not None and "F" in of_model
    if fisheye and of_model is not None and "F" not in of_model:
        raise CameraError(f"{where}: is_fisheye is true, but camera_model is {model}; leave the"
                          " wrong one out")
    values = {key: number(where, fields, key) for key in COEFFICIENTS
              if fields.get(key) is not None}
    values = _with_listed(where, fields.get("distortion_params"), values, fisheye)
    values = {key: value for key, value in values.items() if value}
    known = MODELS["OPENCV_FISHEYE" if fisheye else "OPENCV"].split()
    for key in values.keys() - (known if of_model is None else of_model):
        raise CameraError(f"{where}: {key} is {values[key]:g}, which "
                          + (f"camera_model {model} does not have" if model is not None else
                             "a fisheye does not have" if fisheye else
                             "only camera_model FULL_OPENCV has")
                          + "; name the model that was calibrated, or undistort the pictures")
    order = ("k1", "k2", "k3", "k4") if fisheye else COEFFICIENTS
    distortion = tuple(values.get(key, 0.0) for key in order)
    if not any(distortion):
        return fisheye, ()
    # OpenCV takes 4, 5, 8 numbers
    return fisheye, distortion if fisheye or any(distortion[5:]) else distortion[:5]


def _with_listed(where, listed, values, fisheye):
    """Return the coefficients {name: number} with those of distortion_params."""
    if listed is None:
        return values
    if not isinstance(listed, list) or len(listed) > 14:
        raise CameraError(f"{where}: distortion_params is {reprlib.repr(listed)[:40]}; expected the"
                          f" list {', '.join(LISTED)}")
    listed = [number(where, {"distortion_params": value}, "distortion_params") for value in listed]
    names = ("k1", "k2", "k3", "k4") if fisheye and len(listed) == 4 else LISTED
    # the orders of nerfstudio and OpenCV agree in the first two
    if len(listed) != len(names) and any(listed[2:]):
        raise CameraError(f"{where}: distortion_params has {len(listed)} numbers; expected the six"
                          f" of nerfstudio, {', '.join(LISTED)}: another order is not known")
    found = dict(zip(names, listed))
    for key, value in found.items():
        if abs(values.get(key, value) - value) > SAME * max(abs(value), 1e-9):
            raise CameraError(f"{where}: distortion_params says {key} = {value:g}, but {key} is"
                              f" {values[key]:g}; leave the wrong one out")
    return {**values, **found}


def merged(path, k, top, frame):
    """Return what a file says of the lens of frame k: {key: value} of `top` and of the frame.

    Raises CameraError where the two contradict each other.
    """
    own = {key: frame[key] for key in KEYS if frame.get(key) is not None}
    for key in own.keys() & top.keys():
        if not _alike(own[key], top[key]):
            raise CameraError(f"{path}: frames[{k}] has {key} {reprlib.repr(own[key])[:40]}, but"
                              f" {reprlib.repr(top[key])[:40]} stands next to frames; leave the"
                              " wrong one out")
    return {**top, **own}


def _alike(a, b):
    """Return whether two values of a file say the same."""
    try:
        return bool(np.abs(np.subtract(a, b, dtype=float)).max(initial=0)
                    <= SAME * np.abs(np.asarray(b, float)).max(initial=0))
    except (TypeError, ValueError):
        return a == b


def number(where, data, key, default=None):
    """Return data[key] as a float. Raises CameraError if it is missing or no finite number."""
    value = data.get(key, default)
    # nor NaN, nor 10 ** 400
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e300:
        found = "is missing" if value is None else f"is {reprlib.repr(value)[:40]}"
        raise CameraError(f"{where}: {key} {found}; expected a number in pixels or radians next to"
                          " frames")
    return float(value)


def common_pinhole(lenses, side):
    """Return the pinhole whose picture holds what all `lenses` show, up to WIDEST.

    Its focal length is their median one, of two the larger, and less if its longer side would
    exceed `side` pixels; pixels are square.
    """
    distinct = list(dict.fromkeys(lenses))
    bounds = np.array([_bounds(lens) for lens in distinct])
    low, high = bounds[:, 0].min(0), bounds[:, 1].max(0)
    focal = float(np.median([max(lens.fl_x, lens.fl_y) for lens in lenses]))
    focal = min(focal, side / float((high - low).max()))
    width, height = (max(1, int(np.ceil(length - 1e-3))) for length in focal * (high - low))
    return Lens(min(width, side), min(height, side), focal, focal,
                *(float(-focal * corner) for corner in low))


def _bounds(lens):
    """Return the least and the greatest x and y of the rays that a lens shows, (2, 2)."""
    low, high = np.full(2, -WIDEST), np.full(2, WIDEST)
    if not (lens.fisheye or lens.distortion):
        corners = np.array([[0, 0], [lens.width, lens.height]]) - (lens.cx, lens.cy)
        return np.clip(corners / (lens.fl_x, lens.fl_y), low, high)
    # on a grid of rays, made finer around what is shown
    for _ in range(3):
        x, y = (np.linspace(low[i], high[i], 101) for i in (0, 1))
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        shown = points[lens.pixels(points)[1]]
        if not len(shown):
            raise CameraError(f"a lens with fl_x {lens.fl_x:g}, cx {lens.cx:g}, cy {lens.cy:g} and"
                              f" distortion {lens.distortion} shows nothing in {lens.width} x"
                              f" {lens.height} pixels; check its numbers")
        step = (high - low) / 100
        low = np.maximum(shown.min(0) - step, -WIDEST)
        high = np.minimum(shown.max(0) + step, WIDEST)
    return low, high


def resampled(picture, known, lens, target):
    """Return a picture of `lens` as the pinhole `target` sees it, and where that is known.

    picture (H, W, 4) float32, premultiplied; known (H, W) bool or None. The results are of the
    target's size, float32 and bool; what is not known is 0.
    """
    height, width = picture.shape[:2]
    known = np.ones((height, width), np.float32) if known is None else known.astype(np.float32)
    lens = lens.of_size(width, height)
    # A picture that is finer than the target is reduced first, to twice the target's fineness.
    fineness = np.sqrt(lens.fl_x * lens.fl_y) / target.fl_x
    if fineness > 2:
        size = tuple(max(1, round(length * 2 / fineness)) for length in (width, height))
        picture, known = (cv2.resize(array, size, interpolation=cv2.INTER_AREA)
                          for array in (picture, known))
        lens = lens.of_size(*size)
    fine = 2 if fineness > 1.2 else 1
    places, shown = _places(lens, target, fine)
    picture, known = (cv2.remap(array, places, None, cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_CONSTANT, borderValue=0)
                      for array in (picture, known))
    known = np.where(shown, known, 0)
    if fine > 1:
        picture, known = (cv2.resize(array, (target.width, target.height),
                                     interpolation=cv2.INTER_AREA) for array in (picture, known))
    known = known > 0.999
    return np.where(known[..., None], picture, np.float32(0)), known


@lru_cache(maxsize=2)       # of all pictures, mostly
def _places(lens, target, fine):
    """Return where `lens` shows what `target` does at `fine` samples per pixel and side.

    OpenCV's pixels (fine h, fine w, 2) float32, and whether it is shown there, bool.
    """
    x, y = np.meshgrid((np.arange(target.width * fine) + 0.5) / fine,
                       (np.arange(target.height * fine) + 0.5) / fine)
    rays = np.stack([(x - target.cx) / target.fl_x, (y - target.cy) / target.fl_y], axis=-1)
    places, shown = (array.reshape(*x.shape, -1) for array in lens.pixels(rays.reshape(-1, 2)))
    # to the middle of the outer pixels: what lies beyond would be mixed with nothing
    places = np.clip(places - 0.5, 0, (lens.width - 1, lens.height - 1))
    return np.where(shown, places, -10).astype(np.float32), shown[..., 0]
