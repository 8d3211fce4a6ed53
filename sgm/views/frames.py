"""Frames that come without cameras: folders, videos and sheets of other programs, and cameras.

They become a views folder, after which nothing tells them from views of our own.
"""
import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from sgm.common.errors import InputError, argument
from sgm.common.files import atomic
from sgm.views.cameras import DISTANCE, FOV_DEG, CameraError, camera_to_world
from sgm.views.images import ImageError, list_images, load_image, read_image, write_png
from sgm.views.media import read_video
from sgm.views.transforms import write_transforms

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v")
MOST = 1000                     # frames
# Blender's camera of 35 mm and a sensor of 32 mm, which Zero-1-to-3 and its followers took
FOV_35MM = float(np.degrees(2 * np.arctan(16 / 35)))
log = logging.getLogger("sgm")


@dataclass(frozen=True)
class Rig:
    """Cameras around an object that another program draws, all looking at its middle.

    count: number of views; None = any number. first: azimuth of the first in degrees, None = one
    step; the others follow in equal steps, counter-clockwise from above. elevations: degrees,
    repeated in turn. is_unknown: these are only a guess. sheet: rows and columns of all views in
    one picture, or None. source: where the values are from.
    """
    count: int | None
    first: float | None
    elevations: tuple
    fov_deg: float
    sheet: tuple | None
    source: str
    is_unknown: bool = False

    def of(self, count):
        """Return the `Cameras` of so many views."""
        first = 360 / count if self.first is None else self.first
        azimuths = (first + 360 * np.arange(count) / count) % 360
        return Cameras(azimuths, np.resize(np.array(self.elevations, float), count))


@dataclass(frozen=True, eq=False)
class Cameras:
    """Azimuths and elevations (T,) in degrees, as `write_transforms` takes them of an `Orbit`."""
    camera_azimuths_deg: np.ndarray
    elevations_deg: np.ndarray

    def __len__(self):
        return len(self.camera_azimuths_deg)

    def poses(self, distance):
        """Return OpenGL camera-to-world matrices at `distance` from the origin: (T, 4, 4)."""
        return camera_to_world(self.camera_azimuths_deg, self.elevations_deg, distance)


RIGS = {
    "static": Rig(None, None, (10.0,), FOV_DEG, None, "SV3D's static orbit, the input view last",
                  is_unknown=True),
    "zero123plus": Rig(6, 30.0, (20.0, -10.0), 30.0, (3, 2),
                       "Zero123++ v1.2, README of SUDO-AI-3D/zero123plus"),
    "zero123plus-v1.1": Rig(6, 30.0, (30.0, -20.0), FOV_35MM, (3, 2),
                            "Zero123++ v1.1, the same README and its issue 68"),
    "syncdreamer": Rig(16, 0.0, (30.0,), FOV_35MM, (1, 16),
                       "SyncDreamer, blender_script.py of liuyuan-pal/SyncDreamer"),
}


def write_views(source, folder, name, fov_deg=None):
    """Write pictures without cameras as a views folder with the cameras of a rig. Return its Path.

    source: a folder of pictures, in the order of the numbers in their names; a video or GIF; or one
    picture that holds all views of the rig. folder: is replaced. name: one of RIGS. fov_deg: field
    of view instead of the rig's. Raises CameraError, ImageError.
    """
    if name not in RIGS:
        raise CameraError(f"{argument('orbit')}: found {name!r}, expected one of {', '.join(RIGS)}")
    rig, source, folder = RIGS[name], Path(source), Path(folder)
    fov_deg = rig.fov_deg if fov_deg is None else fov_deg
    if not 1 <= fov_deg <= 120:
        raise CameraError(f"{argument('fov')}: found {fov_deg:g}, expected 1 to 120 degrees")
    if (source / "transforms.json").is_file():
        raise CameraError(f"{source}: found cameras in its transforms.json, and"
                          f" {argument('orbit')} {name}; leave that out, or move the json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    with atomic(folder) as temporary:
        temporary.mkdir()
        count, size = 0, None
        for picture in _frames(source, rig):
            if size not in (None, picture.size):
                raise ImageError(
                    f"{source}: view {count} has {picture.width} x {picture.height} pixels, the"
                    f" first {size[0]} x {size[1]}; expected frames of one size"
                )
            if count == MOST:
                raise ImageError(f"{source}: found more than {MOST} frames, expected one turn about"
                                 " an object; give fewer")
            write_png(temporary / f"{count:03d}.png", picture)
            count, size = count + 1, picture.size
        if rig.count not in (None, count):
            rows, columns = rig.sheet
            raise CameraError(
                f"{source}: found {count} pictures, expected the {rig.count} views of {name}, or"
                f" one picture with {rows} rows of {columns}"
            )
        if count < 3:
            raise CameraError(f"{source}: found {count} frames, expected one turn about an object")
        tangents = np.tan(np.radians([FOV_DEG / 2, fov_deg / 2]))
        write_transforms(temporary, rig.of(count), size[::-1],
                         float(DISTANCE * tangents[0] / tangents[1]), fov_deg)
        run = {"frames": str(source), "cameras": name, "cameras_from": rig.source}
        if rig.is_unknown:
            run["elevation"] = "unknown"
        (temporary / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    log.info("%s: %d views with the cameras of %s (%s)", source, count, name, rig.source)
    return folder


def _frames(source, rig):
    """Yield the frames of a folder, video, GIF or sheet as PIL images."""
    if source.is_dir():
        files = _pictures(source)
        if len(files) != 1:
            yield from (load_image(file) for file in files)
            return
        source = files[0]
    if source.suffix.lower() in VIDEOS:
        yield from _video(source)
        return
    frames = read_image(source, lambda image: [
        frame.convert("RGBA") for _, frame in zip(range(MOST + 1), ImageSequence.Iterator(image))])
    if len(frames) > 1:
        yield from frames
        return
    if rig.sheet is None:
        raise CameraError(f"{source}: found one picture, expected frames of a turn about an object:"
                          " a folder, a video or a GIF")
    sheet, (rows, columns) = load_image(source), rig.sheet
    width, height = sheet.width // columns, sheet.height // rows
    if (width * columns, height * rows) != sheet.size or width != height:
        raise CameraError(
            f"{source}: found {sheet.width} x {sheet.height} pixels, expected {rows} rows of"
            f" {columns} square views"
        )
    for k in range(rows * columns):
        y, x = k // columns * height, k % columns * width
        yield sheet.crop((x, y, x + width, y + height))


def _video(path):
    try:
        return [Image.fromarray(frame) for frame in read_video(path, MOST + 1)]
    except InputError:
        raise
    # imageio and ffmpeg raise almost anything
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(f"{path}: cannot be read as a video ({reason}); give a folder of its"
                         " frames") from None


def _pictures(folder):
    """Return the pictures of a folder in natural order.

    Where at least three have a number in their names, those without (input.png, contact.png) are
    left out.
    """
    files = list_images(folder)
    numbered = [file for file in files if re.search("[0-9]", file.stem)]
    if not 3 <= len(numbered) < len(files):
        return files
    log.info("%s: %s: no number in its name, is left out", folder,
             ", ".join(file.name for file in files if file not in numbered))
    return numbered
