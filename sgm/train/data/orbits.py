"""Orbits as folders of images with cameras: our views folders and Objaverse renders.

A views folder holds transforms.json. An Objaverse render is a folder with 000.png ... and
cameras.npz, whose `cam_poses` (V, 3, 4) are world-to-camera (z up), as InstantMesh reads it
(TencentARC/InstantMesh, src/data/objaverse.py), or with meta.pkl, a pickled list whose fifth entry
is the same, as its MindSpore port does (mindspore-lab/mindone,
examples/instantmesh/data/objaverse.py).
"""
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from sgm.common.files import check_file, natural_key
from sgm.train.data.clips import READING, DataError, hash_of
from sgm.train.data.plain_pickle import plain, read_pickle
from sgm.views.cameras import AZIMUTH_SIGN, wrap_degrees
from sgm.views.images import WHITE, composite, load_image, read_image
from sgm.views.transforms import read_transforms

# degrees by which a camera may look past the origin or be rolled, and labels differ from poses
AIM = 3.0
CAMERA_FILES = ("cameras.npz", "meta.pkl")
MAX_BYTES = 16 << 20            # of a file of cameras: a hundred thousand poses
# where renders lie, next to a list of their ids
RENDER_FOLDERS = ("", "rendering_random_32views", "input")


@dataclass(frozen=True)
class OrbitClip:
    """Views of one object, put on a background and resized to `size` x `size` pixels.

    side: the stored images' pixels (None: not known before they are read). background: three levels
    of 0..255.
    """
    name: str
    files: tuple
    angles: tuple
    size: int
    side: Optional[int] = None
    background: tuple = WHITE
    fps = motion = None

    @property
    def num_views(self):
        """Return V, the number of stored views."""
        return len(self.files)

    def frames(self, views=slice(None)):
        """Return those views as float32 (n, 3, H, W) in [-1, 1]."""
        chosen = self.files[views] if isinstance(views, slice) else [self.files[k] for k in views]
        return np.stack([self._view(file) for file in chosen])

    def _view(self, file):
        image = load_image(file, upright=False)
        expected = (self.side or image.width, image.width)
        if (image.width, image.height) != expected or image.width < self.size:
            raise DataError(f"{file}: found {image.width} x {image.height} pixels, expected "
                            + (f"{self.side} x {self.side}, as transforms.json says" if self.side
                               else f"a square of at least {self.size}") + "; render it again")
        if self.background != WHITE and image.getchannel("A").getextrema()[0] == 255:
            raise DataError(f"{file}: is opaque, so that its background cannot be changed; save it"
                            " with alpha, or set background=white")
        if image.width != self.size:
            # Pillow weights the colors by alpha
            image = image.resize((self.size, self.size), Image.LANCZOS)
        return (composite(image, self.background).astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)

    def digest(self, memo):
        """Return a hash of what `frames` would return."""
        return hash_of(READING, self.background, *(memo.content(file) for file in self.files))


def read_orbit(folder, size):
    """Return the OrbitClip of a views folder, for views of `size` pixels.

    Raises InputError: no or damaged transforms.json, one view only, cameras that do not look at the
    origin, images of another size than it states.
    """
    views = read_transforms(folder)
    if len(views.files) < 2:
        raise DataError(f"{folder}: transforms.json has a single view, expected an orbit of"
                        " several")
    lens = views.lens
    if lens is None:
        raise DataError(f"{folder}: transforms.json has several lenses, or one that is no pinhole;"
                        " expected one pinhole for all views of an orbit, render it again")
    if lens.width != lens.height or lens.width < size:
        raise DataError(f"{folder}: transforms.json says {lens.width} x {lens.height} pixels,"
                        f" expected a square of at least {size}, the model's size; render it again")
    azimuths, elevations = _angles(folder, views.poses[:, :3, 3], views.poses[:, :3, 2],
                                   views.poses[:, 2, 0])
    for name, said, seen in (("azimuth_deg", views.azimuths_deg, azimuths),
                             ("elevation_deg", views.elevations_deg, elevations)):
        off = np.abs((said - seen + 180) % 360 - 180)
        if off.max() > AIM:
            k = int(off.argmax())
            raise DataError(f"{folder}: frames[{k}] says {name} {said[k]:.1f}, its transform_matrix"
                            f" {seen[k]:.1f}; one of them is wrong, render it again")
    _check_side(views.files[0], lens.width)
    return OrbitClip(str(folder), tuple(views.files),
                     (AZIMUTH_SIGN * views.azimuths_deg, views.elevations_deg), size, lens.width)


def read_render(folder, size):
    """Return the OrbitClip of an Objaverse render. Raises InputError as `read_orbit` does."""
    folder = Path(folder)
    for name in CAMERA_FILES:
        check_file(folder / name, DataError)
    found = [folder / name for name in CAMERA_FILES if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder}: found neither {' nor '.join(CAMERA_FILES)}; expected one with"
                        " the cameras' poses")
    poses = _camera_poses(found[0])
    files = sorted((file for file in folder.glob("*.png") if re.fullmatch("[0-9]+", file.stem)),
                   key=natural_key)
    if len(files) != len(poses) or len(files) < 2:
        raise DataError(f"{folder}: found {len(files)} views (000.png ...) and {len(poses)} poses"
                        f" in {found[0].name}; expected as many, and at least 2")
    rotation = poses[:, :, :3]
    centers = -np.einsum("vji,vj->vi", rotation, poses[:, :, 3])
    # Row 2 is the camera's axis: forwards in OpenCV's convention, backwards in Blender's. Both are
    # met with.
    axis = rotation[:, 2] * (np.sign(np.einsum("vi,vi->v", rotation[:, 2], centers).mean()) or 1)
    azimuths, elevations = _angles(folder, centers, axis, rotation[:, 0, 2])
    return OrbitClip(str(folder), tuple(files), (AZIMUTH_SIGN * azimuths, elevations), size)


def read_ids(path):
    """Return the render folders that a JSON list of ids, or {"good_objs": [...]}, names.

    Ids are folders next to the list, or in one of `RENDER_FOLDERS` there. Raises DataError.
    """
    path = Path(path)
    check_file(path, DataError)
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"data: {path}: cannot be read as JSON ({error}); expected a list of object"
                        " ids") from None
    ids = ids.get("good_objs") if isinstance(ids, dict) else ids
    is_list = isinstance(ids, list) and bool(ids)
    if not is_list or not all(isinstance(name, str) and name for name in ids):
        raise DataError(f"data: {path}: expected a list of object ids, or that as good_objs; write"
                        " it so")
    for name in RENDER_FOLDERS:
        if (path.parent / name / ids[0]).is_dir():
            return [path.parent / name / each for each in ids]
    raise DataError(f"data: {path}: its first id is {ids[0]}, and there is no folder of that name"
                    f" next to it or in {' or '.join(RENDER_FOLDERS[1:])}")


def _angles(folder, centers, backward, roll):
    """Return azimuths and elevations (V,) degrees of cameras at `centers` (V, 3).

    They come with their backward axes (V, 3) and the z of their right axes (V,). Raises DataError
    unless they look at the origin, upright, from off the poles.
    """
    radius = np.linalg.norm(centers, axis=1)
    unit = centers / np.maximum(radius, 1e-9)[:, None]
    past = np.rad2deg(np.arccos(np.clip((unit * backward).sum(1), -1, 1)))
    rolled = np.rad2deg(np.arcsin(np.clip(np.abs(roll), 0, 1)))
    elevations = np.rad2deg(np.arcsin(np.clip(unit[:, 2], -1, 1)))
    for what, amount, limit in (("looks past the origin by", past, AIM),
                                ("is rolled by", rolled, AIM),
                                ("is at elevation", np.abs(elevations), 89.99)):
        if not amount.max() <= limit:
            k = int(amount.argmax())
            raise DataError(f"{folder}: camera {k} {what} {amount[k]:.1f} degrees, expected at most"
                            f" {limit:g}: cameras of an orbit look at the object in the origin, z"
                            " up")
    return wrap_degrees(np.rad2deg(np.arctan2(unit[:, 1], unit[:, 0]))), elevations


def _check_side(file, side):
    # its header only; the rest is checked when it is read
    found = read_image(file, lambda image: image.size)
    if found != (side, side):
        raise DataError(f"{file}: found {found[0]} x {found[1]} pixels, expected {side} x {side},"
                        " as transforms.json says; render it again")


def _camera_poses(path):
    """Return world-to-camera poses (V, 3, 4) float64 of cameras.npz or meta.pkl.

    Raises DataError.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo("cam_poses.npy").file_size > MAX_BYTES:
                    raise ValueError(f"cam_poses is larger than {MAX_BYTES >> 20} MB")
            with np.load(path, allow_pickle=False) as arrays:
                poses = arrays["cam_poses"]
        else:
            poses = _rows(read_pickle(path.read_bytes())[4])
        poses = np.asarray(poses, np.float64)
    except Exception as error:      # zip and numpy raise all sorts on damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read ({reason}); expected cam_poses, world-to-camera"
                        " matrices of 3 x 4") from None
    if poses.ndim != 3 or poses.shape[1:] not in ((3, 4), (4, 4)) or not np.isfinite(poses).all():
        raise DataError(f"{path}: cam_poses has shape {' x '.join(map(str, poses.shape))}, expected"
                        " finite numbers, V x 3 x 4")
    poses = poses[:, :3]
    rotations = poses[..., :3]
    if (np.abs(np.einsum("vij,vkj->vik", rotations, rotations) - np.eye(3)).max() > 1e-3
            or np.linalg.det(rotations).min() < 0):
        raise DataError(f"{path}: cam_poses has a matrix that is not a rotation; expected"
                        " world-to-camera matrices of 3 x 4")
    return poses


def _rows(poses):
    """Return poses of a pickle, an array or a list of matrices, as numpy can take them.

    The list is looked at first: a small file can hold one list in itself a million times. Raises
    ValueError.
    """
    poses = plain(poses)
    if isinstance(poses, list):
        poses = [[plain(row) for row in plain(pose)[:4]] for pose in poses]
        numbers = (int, float, np.floating)
        if not all(len(row) == 4 and all(isinstance(value, numbers) for value in row)
                   for pose in poses for row in pose):
            raise ValueError("its fifth entry is no list of 3 x 4 matrices")
    return poses
