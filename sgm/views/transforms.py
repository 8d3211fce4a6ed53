"""Writes and reads transforms.json, the cameras of a views folder of ours or of another program.

The form is that of Instant-NGP and of nerfstudio's nerfstudio-data parser; poses and world are as
cameras.py says.
"""
import json
import reprlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgm.common.files import check_file
from sgm.views.cameras import (
    AZIMUTH_SIGN,
    DISTANCE,
    FOV_DEG,
    MAX_VALUE,
    CameraError,
    Orbit,
    angle_list,
    focal_length,
    wrap_degrees,
)
from sgm.views.images import ImageError, read_image

MAX_BYTES = 64 << 20            # largest JSON file; ten thousand frames take 5 MB
MAX_IMAGE_SIDE = 1 << 16        # pixels; a larger image means a damaged file
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
INTRINSICS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", *DISTORTION)


@dataclass(frozen=True, eq=False)
class CameraFile:
    """Images with known cameras, as read from a transforms.json.

    poses (T, 4, 4) OpenGL camera-to-world; fl, cx, cy pixels; width, height pixels; files T
    absolute paths; masks: T paths, or None where a view has no mask of its own; azimuths_deg,
    elevations_deg (T,) of the cameras in the world; distance: the cameras' mean distance from the
    origin.
    """
    poses: np.ndarray
    fl: float
    cx: float
    cy: float
    width: int
    height: int
    files: list
    masks: list
    azimuths_deg: np.ndarray
    elevations_deg: np.ndarray
    distance: float


def write_transforms(path, orbit, size, distance=DISTANCE, fov_deg=FOV_DEG, files=None):
    """Write the cameras of square views, `size` pixels wide, as a transforms.json. Return its path.

    path: the json file, or the folder for its transforms.json. files: T image paths relative to the
    json, with extension; None = 000.png, 001.png, … Callers write into a folder that appears whole.
    """
    if files is None:
        files = [f"{k:03d}.png" for k in range(len(orbit))]
    files = [str(file) for file in files]
    if len(files) != len(orbit):
        raise CameraError(f"{path}: {len(files)} files for {len(orbit)} cameras; give one file per"
                          " view")
    fl, angle = float(focal_length(size, fov_deg)), float(np.deg2rad(fov_deg))
    views = zip(files, orbit.camera_azimuths_deg, orbit.elevations_deg, orbit.poses(distance))
    data = {
        "camera_angle_x": angle, "camera_angle_y": angle, "fl_x": fl, "fl_y": fl,
        "cx": size / 2, "cy": size / 2,
        "w": int(size), "h": int(size), "camera_model": "OPENCV", "distance": float(distance),
        "frames": [{"file_path": file, "azimuth_deg": float(azimuth),
                    "elevation_deg": float(elevation), "transform_matrix": pose.tolist()}
                   for file, azimuth, elevation, pose in views],
    }
    path = json_path(path)
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return path


def read_transforms(path):
    """Read a transforms.json (the file or its folder; ours, nerfstudio's, instant-ngp's).

    Return a CameraFile. The focal length comes from fl_x or camera_angle_x. Where w and h are
    missing (the NeRF paper's Blender scenes), they are the first picture's. Intrinsics may stand in
    every frame, as long as all frames have the same. Azimuths and elevations come from azimuth_deg
    and elevation_deg, or from the camera positions. Raises CameraError: unreadable or missing
    values, lens distortion, pixels that are not square, a matrix that is not a rotation, an image
    file that is not there.
    """
    path, data = read_json(path)
    frames = entries(path, data, "frames")
    data = {**_shared_intrinsics(path, frames), **data}
    poses, files, masks = [], [], []
    for k, frame in enumerate(frames):
        where = f"{path}: frames[{k}]"
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise CameraError(f"{where} has no file_path; give the image's path relative to the"
                              " json")
        poses.append(_pose(where, frame.get("transform_matrix")))
        files.append(_image_file(where, path.parent / frame["file_path"]))
        mask = frame.get("mask_path")
        masks.append(_image_file(where, path.parent / mask, "mask_path")
                     if isinstance(mask, str) else None)
    if "w" not in data and "h" not in data:
        data["w"], data["h"] = _picture_size(files[0])
    width, height = (int(_number(path, data, key)) for key in ("w", "h"))
    if "fl_x" in data:
        fl = _number(path, data, "fl_x")
    elif "camera_angle_x" in data:
        angle = _number(path, data, "camera_angle_x")
        if not 1e-6 < angle < np.pi:
            raise CameraError(f"{path}: camera_angle_x is {angle:g}; expected radians above 0 and"
                              " below pi")
        fl = focal_length(width, np.rad2deg(angle))
    else:
        raise CameraError(f"{path}: has neither fl_x nor camera_angle_x; add one next to frames, it"
                          " holds for all views")
    fl_y = _number(path, data, "fl_y", fl)
    if not (1 <= width <= MAX_IMAGE_SIDE and 1 <= height <= MAX_IMAGE_SIDE
            and 1e-3 <= fl <= MAX_VALUE and abs(fl_y - fl) <= 0.005 * fl):
        raise CameraError(f"{path}: w {width:g}, h {height:g}, fl_x {fl:g}, fl_y {fl_y:g}; expected"
                          f" positive numbers, sides up to {MAX_IMAGE_SIDE} and square pixels (fl_x"
                          " = fl_y): resample the images")
    for key in DISTORTION:
        if abs(_number(path, data, key, 0.0)) > 1e-6:
            raise CameraError(f"{path}: {key} is {data[key]}; lens distortion is not modeled,"
                              " undistort the images")
    poses = np.stack(poses)
    radius = np.linalg.norm(poses[:, :3, 3], axis=-1)
    if all("azimuth_deg" in f and "elevation_deg" in f for f in frames):
        azimuths = angle_list([f["azimuth_deg"] for f in frames], f"{path}: azimuth_deg")
        elevations = angle_list([f["elevation_deg"] for f in frames], f"{path}: elevation_deg")
    else:
        azimuths = wrap_degrees(np.rad2deg(np.arctan2(poses[:, 1, 3], poses[:, 0, 3])))
        elevations = np.rad2deg(np.arcsin(poses[:, 2, 3] / np.maximum(radius, 1e-12)))
    cx, cy = _number(path, data, "cx", width / 2), _number(path, data, "cy", height / 2)
    return CameraFile(poses, float(fl), cx, cy, width, height, files, masks, azimuths, elevations,
                      float(radius.mean()))


def read_orbit(path):
    """Read an Orbit from JSON.

    It is {"azimuths_deg": [...], "elevations_deg": [...]}, or a transforms.json (a file or its
    folder) whose frames have azimuth_deg and elevation_deg: azimuths of cameras, from which
    AZIMUTH_SIGN is removed. Raises CameraError.
    """
    path, data = read_json(path)
    if "frames" in data:
        frames = entries(path, data, "frames")
        lists = [[f.get(key) if isinstance(f, dict) else None for f in frames]
                 for key in ("azimuth_deg", "elevation_deg")]
        if None in lists[0] + lists[1]:
            raise CameraError(f"{path}: its frames lack azimuth_deg or elevation_deg; add both to"
                              " every frame")
        lists[0] = AZIMUTH_SIGN * angle_list(lists[0], f"{path}: azimuth_deg")
        lists[1] = angle_list(lists[1], f"{path}: elevation_deg")
    else:
        lists = [entries(path, data, key) for key in ("azimuths_deg", "elevations_deg")]
    try:
        return Orbit(*lists)
    except CameraError as error:
        raise CameraError(f"{path}: {error}") from None


def _shared_intrinsics(path, frames):
    """Return {key: value} of intrinsics in the frames, as some nerfstudio programs write them."""
    shared = {}
    for k, frame in enumerate(frames):
        for key in INTRINSICS:
            if not isinstance(frame, dict) or key not in frame:
                continue
            if shared.setdefault(key, frame[key]) != frame[key]:
                raise CameraError(f"{path}: frames[{k}] has {key} {reprlib.repr(frame[key])[:40]},"
                                  f" a frame before it {reprlib.repr(shared[key])[:40]}; expected"
                                  " one camera for all: resample the images")
    return shared


def _picture_size(file):
    """Return width and height of an image file in pixels; it is not decoded."""
    try:
        return read_image(file, lambda image: image.size)
    except ImageError:
        raise CameraError(f"{file}: cannot be read as an image; without w and h in the json, its"
                          " size is needed") from None


def json_path(path):
    """Return the json file itself, or the transforms.json of a folder."""
    path = Path(path)
    return path if path.suffix == ".json" and not path.is_dir() else path / "transforms.json"


def read_json(path):
    """Read a JSON object. Return its path and the dict. Raises CameraError."""
    check_file(path, CameraError)
    path = json_path(path)
    check_file(path, CameraError)
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise CameraError(f"{path}: is larger than {MAX_BYTES >> 20} MB; expected cameras, a"
                              " few kilobytes of JSON")
        data = json.loads(text.decode("utf-8"))
    except CameraError:
        raise
    except OSError as error:
        raise CameraError(f"{path}: cannot be read ({error.strerror}); give a json file or a views"
                          " folder") from None
    except RecursionError:
        raise CameraError(f"{path}: is nested too deeply; expected cameras, two levels of"
                          " lists") from None
    except ValueError as error:
        raise CameraError(f"{path}: is not JSON ({error}); write it again") from None
    if not isinstance(data, dict):
        raise CameraError(f"{path}: holds a {type(data).__name__}; expected a JSON object with"
                          " frames or azimuths_deg")
    return path, data


def entries(path, data, key):
    """Return data[key], which must be a list that is not empty. Raises CameraError."""
    value = data.get(key)
    if not isinstance(value, list) or not value:
        found = "is missing" if value is None else f"is {reprlib.repr(value)[:40]}"
        raise CameraError(f"{path}: {key} {found}; expected a list with one entry per view")
    return value


def _number(path, data, key, default=None):
    value = data.get(key, default)
    # nor NaN, nor 10 ** 400
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e300:
        found = "is missing" if value is None else f"is {reprlib.repr(value)[:40]}"
        raise CameraError(f"{path}: {key} {found}; expected a number in pixels or radians next to"
                          " frames")
    return float(value)


def _pose(where, matrix):
    try:
        matrix = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape not in ((4, 4), (3, 4)) or not (np.abs(matrix) <= MAX_VALUE).all():
        raise CameraError(f"{where}: transform_matrix is missing or not 4 x 4 finite numbers;"
                          " expected an OpenGL camera-to-world matrix")
    pose = np.vstack([matrix[:3], [0, 0, 0, 1]])
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise CameraError(f"{where}: transform_matrix is not a rotation (scaled, mirrored or"
                          " corrupt); expected an OpenGL camera-to-world matrix")
    return pose


def _image_file(where, file, key="file_path"):
    try:
        # Blender's data sets leave the extension out
        for candidate in (file, file.with_name(file.name + ".png")):
            if candidate.is_file():
                return candidate.absolute()
    except (OSError, ValueError):       # a name that no file can have: too long, or only "/"
        pass
    raise CameraError(f"{where}: {file} does not exist; {key} must be relative to the json, with"
                      " extension")
