"""Writes and reads transforms.json, the cameras of a views folder of ours or of another program.

The form is that of Instant-NGP and of nerfstudio's nerfstudio-data parser; poses and world are as
cameras.py says.
"""
import itertools
import json
import logging
import reprlib
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from sgm.common.files import atomic, check_file
from sgm.views import lenses
from sgm.views.camera_fields import check_fields
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
# Endings of pictures, for a file that leaves them out or names another one
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif")
# The cameras to reconstruct from in a folder of the NeRF paper's Blender scenes, which has those to
# compare with in files of their own
TRAIN = "transforms_train.json"
TOO_DEEP = "is nested too deeply; expected cameras, two levels of lists"
log = logging.getLogger("sgm")


@dataclass(frozen=True, eq=False)
class CameraFile:
    """Images with known cameras, as read from a transforms.json.

    poses (T, 4, 4) OpenGL camera-to-world; lenses: T `lenses.Lens`; files T absolute paths; masks:
    T paths, or None where a view has no mask of its own; azimuths_deg, elevations_deg (T,) of the
    cameras in the world; distance: the cameras' mean distance from the origin. applied (4, 4):
    what another program did to the world that the poses were in before, the identity if nothing.
    """
    poses: np.ndarray
    lenses: list
    files: list
    masks: list
    azimuths_deg: np.ndarray
    elevations_deg: np.ndarray
    distance: float
    applied: np.ndarray = field(default_factory=lambda: np.eye(4))

    @property
    def lens(self):
        """Return the pinhole with square pixels that all frames share, or None."""
        first = self.lenses[0]
        alike = first.is_pinhole and all(lens.is_like(first) for lens in dict.fromkeys(self.lenses))
        return first if alike else None


def write_transforms(path, orbit, size, distance=DISTANCE, fov_deg=FOV_DEG, files=None):
    """Write the cameras of views as a transforms.json. Return its path.

    path: the json file, or the folder for its transforms.json. size: pixels of square views, or
    (height, width), of which the shorter side then sees `fov_deg`. files: T image paths relative to
    the json, with extension; None = 000.png, 001.png, … Callers write into a folder that appears
    whole.
    """
    if files is None:
        files = [f"{k:03d}.png" for k in range(len(orbit))]
    files = [str(file) for file in files]
    if len(files) != len(orbit):
        raise CameraError(f"{path}: {len(files)} files for {len(orbit)} cameras; give one file per"
                          " view")
    height, width = (int(side) for side in (size if np.ndim(size) else (size, size)))
    fl = float(focal_length(min(height, width), fov_deg))
    angles = [float(np.deg2rad(fov_deg)) if side == min(height, width) else
              2 * float(np.arctan(side / (2 * fl))) for side in (width, height)]
    views = zip(files, orbit.camera_azimuths_deg, orbit.elevations_deg, orbit.poses(distance))
    data = {
        "camera_angle_x": angles[0], "camera_angle_y": angles[1], "fl_x": fl, "fl_y": fl,
        "cx": width / 2, "cy": height / 2,
        "w": width, "h": height, "camera_model": "OPENCV", "distance": float(distance),
        "frames": [{"file_path": file, "azimuth_deg": float(azimuth),
                    "elevation_deg": float(elevation), "transform_matrix": pose.tolist()}
                   for file, azimuth, elevation, pose in views],
    }
    path = _own_json(path)
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return path


def read_transforms(path):
    """Read a transforms.json (the file or its folder, see `json_path`; ours or another program's).

    Return a CameraFile. Lenses may stand next to frames or in every frame, with focal lengths or
    angles of view, as pinholes or with the distortion that `lenses` knows. Where w and h are
    missing (the NeRF paper's Blender scenes), they are the picture's. Azimuths and elevations come
    from azimuth_deg and elevation_deg, or from the camera positions. Fields that are not read are
    warned of unless `camera_fields` knows them to be harmless. Raises CameraError: unreadable,
    missing or contradicting values, a camera that is not known, a matrix that is not a rotation, an
    image file that is not there.
    """
    path, data = read_json(path)
    try:
        return _cameras(path, data)
    except RecursionError:
        raise CameraError(f"{path}: {TOO_DEEP}") from None


def _cameras(path, data):
    """Return the CameraFile of a transforms.json's content."""
    frames = entries(path, data, "frames")
    for k, frame in enumerate(frames):
        name = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(name, str) or not name:
            raise CameraError(f"{path}: frames[{k}] has no file_path; give the image's path"
                              " relative to the json")
    check_fields(path, data, frames)
    poses = np.stack([_pose(f"{path}: frames[{k}]", frame.get("transform_matrix"))
                      for k, frame in enumerate(frames)])
    files, masks, guessed = _image_files(path, frames)
    _check_one_pose_each(path, files, poses, guessed)
    radius = np.linalg.norm(poses[:, :3, 3], axis=-1)
    if all("azimuth_deg" in f and "elevation_deg" in f for f in frames):
        azimuths = angle_list([f["azimuth_deg"] for f in frames], f"{path}: azimuth_deg")
        elevations = angle_list([f["elevation_deg"] for f in frames], f"{path}: elevation_deg")
    else:
        azimuths = wrap_degrees(np.rad2deg(np.arctan2(poses[:, 1, 3], poses[:, 0, 3])))
        elevations = np.rad2deg(np.arcsin(poses[:, 2, 3] / np.maximum(radius, 1e-12)))
    return CameraFile(poses, _read_lenses(path, data, frames, files), files, masks, azimuths,
                      elevations, float(radius.mean()), _applied(path, data))


def replace_poses(path, poses, elevations_deg):
    """Write other poses (T, 4, 4), and elevations, into a transforms.json; all else stays.

    The file as it was is kept beside it. Return the path of that. Raises CameraError, InputError.
    """
    path, data = read_json(path)
    for frame, pose, elevation in zip(entries(path, data, "frames"), poses, elevations_deg):
        frame["transform_matrix"] = pose[:len(frame["transform_matrix"])].tolist()
        if "elevation_deg" in frame:
            frame["elevation_deg"] = float(elevation)
    names = (path.with_name(f"{path.stem}.old{k or ''}.json") for k in itertools.count())
    old = next(name for name in names if not name.exists())
    with atomic(old) as temporary:
        shutil.copyfile(path, temporary)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return old


def _read_lenses(path, data, frames, files):
    """Return the Lens of every frame."""
    top = {key: data[key] for key in lenses.KEYS if data.get(key) is not None}
    found, known = [], {}
    for k, (frame, file) in enumerate(zip(frames, files)):
        fields = lenses.merged(path, k, top, frame)
        size = None if {"w", "h"} & fields.keys() else _picture_size(file)
        same = repr(fields), size
        if same not in known:
            where = path if fields == top else f"{path}: frames[{k}]"
            known[same] = lenses.read_lens(where, fields, size)
        found.append(known[same])
    return found


def _applied(path, data):
    """Return the (4, 4) that a program applied to the world of the poses: nerfstudio's fields.

    x in the file = applied_scale * applied_transform(x as it was).
    """
    matrix = data.get("applied_transform", np.eye(4)[:3].tolist())
    try:
        applied = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        applied = np.empty(0)
    finite = applied.shape in ((3, 4), (4, 4)) and (np.abs(applied) <= MAX_VALUE).all()
    if not finite or abs(np.linalg.det(applied[:3, :3])) < 1e-9:
        raise CameraError(f"{path}: applied_transform is no 3 x 4 matrix that can be undone;"
                          " correct it, or leave it out")
    scale = lenses.number(path, data, "applied_scale", 1.0)
    if not 1e-9 < scale < MAX_VALUE:
        raise CameraError(f"{path}: applied_scale is {scale:g}; expected a number above 0")
    return np.vstack([applied[:3] * scale, [0, 0, 0, 1]])


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


def _picture_size(file):
    """Return width and height of an image file in pixels, as stored; it is not decoded."""
    try:
        return read_image(file, lambda image: image.size)
    except ImageError:
        raise CameraError(f"{file}: cannot be read as an image; without w and h in the json, its"
                          " size is needed") from None


def json_path(path):
    """Return the json file itself, or that of a folder: transforms.json, or if there is none TRAIN.
    """
    found = _own_json(path)
    train = found.with_name(TRAIN)
    return train if found != Path(path) and not found.exists() and train.is_file() else found


def _own_json(path):
    """Return the json file itself, or the transforms.json of a folder."""
    path = Path(path)
    is_json = path.suffix.lower() == ".json" or path.is_file()
    return path if is_json and not path.is_dir() else path / "transforms.json"


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
        # bytes: UTF-8 or UTF-16, with a byte order mark or without
        data = json.loads(text, object_pairs_hook=partial(_without_contradiction, path))
    except CameraError:
        raise
    except OSError as error:
        raise CameraError(f"{path}: cannot be read ({error.strerror}); give a json file or a views"
                          " folder") from None
    except RecursionError:
        raise CameraError(f"{path}: {TOO_DEEP}") from None
    except ValueError as error:
        raise CameraError(f"{path}: is not JSON ({error}); give a json file or a views"
                          " folder") from None
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


def _without_contradiction(path, pairs):
    """Return the dict of a JSON object's pairs. Raises CameraError for a key with two values."""
    found = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise CameraError(f"{path}: {key} is there twice, with two values; remove one")
        found[key] = value
    return found


def _pose(where, matrix):
    try:
        matrix = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape not in ((4, 4), (3, 4)) or not (np.abs(matrix) <= MAX_VALUE).all():
        raise CameraError(f"{where}: transform_matrix is missing or not 4 x 4 finite numbers;"
                          " expected an OpenGL camera-to-world matrix")
    if matrix.shape == (4, 4) and np.abs(matrix[3, :3]).max() > 1e-6:
        raise CameraError(f"{where}: transform_matrix ends in the row"
                          f" {np.round(matrix[3], 3).tolist()}; expected 0, 0, 0, 1: it may be"
                          " transposed")
    pose = np.vstack([matrix[:3], [0, 0, 0, 1]])
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0 or (
            matrix.shape == (4, 4) and abs(matrix[3, 3] - 1) > 1e-6):
        raise CameraError(f"{where}: transform_matrix is not a rotation (scaled, mirrored or"
                          " corrupt); expected an OpenGL camera-to-world matrix")
    return pose


def _check_one_pose_each(path, files, poses, guessed):
    """Warn of a picture that two frames with different poses name.

    Raises CameraError if that picture is `guessed`: they may have named two.
    """
    first = {}
    for k, file in enumerate(files):
        earlier = first.setdefault(file, k)
        if np.abs(poses[earlier] - poses[k]).max() > 1e-6 * max(1, np.abs(poses[k]).max()):
            said = (f"{path}: frames[{earlier}] and frames[{k}] have two poses for one picture,"
                    f" {file.name}; correct their file_path")
            if file in guessed:
                raise CameraError(said)
            log.warning("%s", said)
            break


def _image_files(path, frames):
    """Return the paths of the frames' pictures, of their masks, and the set of the guessed ones.

    A mask is None where there is none. Guesses are warned of, in one line.
    """
    guessed, found = {}, []
    for key in ("file_path", "mask_path"):
        taken = set(found[0]) if found else set()       # a guess at a mask is none of the pictures
        found.append([
            _image_file(f"{path}: frames[{k}]", path.parent, frame[key], key, taken, guessed)
            if frame.get(key) else None for k, frame in enumerate(frames)])
    if guessed:
        name, file = next(iter(guessed.items()))
        log.warning("%s: %d of its files are not where it says; others are used, as %s for %s",
                    path, len(guessed), file, name)
    return *found, set(guessed.values())


def _image_file(where, folder, name, key, taken, guessed):
    """Return the file that a frame names. Raises CameraError if there is none, or there are two.

    Tried in order: the name as it is; with the backslashes of Windows as slashes; with the ending
    that it leaves out or another one; and for an absolute path of another machine, its last parts
    within `folder`. The last two are noted in `guessed`, {name: file}, but for an ending left out.
    """
    if not isinstance(name, str):
        raise CameraError(f"{where}: {key} is {reprlib.repr(name)[:60]}; expected the path of one"
                          " image")
    slashed = name.replace("\\", "/")
    try:
        for candidate in dict.fromkeys((name, slashed)):
            if (folder / candidate).exists():
                check_file(folder / candidate, CameraError)
            if (folder / candidate).is_file():
                return (folder / candidate).absolute()
        found = _other_endings(folder / slashed)
        if found and PurePosixPath(slashed).suffix.lower() not in SUFFIXES:
            return _only_one(where, key, name, found)
        if not found and (PurePosixPath(slashed).is_absolute() or PureWindowsPath(name).drive):
            parts = PureWindowsPath(name).parts
            for start in range(1, len(parts)):
                beside = folder.joinpath(*parts[start:])
                found += [beside.absolute()] if beside.is_file() else []
            found = found or [file for start in range(1, len(parts))
                              for file in _other_endings(folder.joinpath(*parts[start:]))]
        found = [file for file in found if file not in taken]
        if found:
            guessed[name] = _only_one(where, key, name, found)
            return guessed[name]
    except CameraError:
        raise
    except (OSError, ValueError):       # a name that no file can have: too long, or only "/"
        pass
    lost = str(folder / slashed)
    lost = lost if len(lost) <= 500 else f"{lost[:240]}...{lost[-240:]}"
    raise CameraError(f"{where}: {lost} does not exist; {key} must be relative to the json, with"
                      " extension")


def _other_endings(file):
    """Return the pictures whose name is that of `file` with another ending."""
    if not file.parent.is_dir() or not file.name:
        return []
    stem = file.stem if file.suffix.lower() in SUFFIXES else file.name
    others = [file.with_name(stem + ending).absolute() for suffix in SUFFIXES
              for ending in (suffix, suffix.upper())]
    # by their numbers on the disk: .png and .PNG are one file to some systems
    return list({other.stat().st_ino: other for other in others if other.is_file()}.values())


def _only_one(where, key, name, found):
    if len(found) > 1:
        raise CameraError(f"{where}: {key} {name} may be {found[0]} or {found[1]}; remove one, or"
                          " write the path relative to the json")
    return found[0]
