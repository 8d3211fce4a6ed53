"""The views folder, the contract between the two halves: PNGs, cameras, how they were made, and things to look at."""
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import cv2
import imageio_ffmpeg
import numpy as np
from PIL import Image

from sgm.cameras import DISTANCE, Orbit, write_transforms
from sgm.common.errors import InputError, one_line
from sgm.images import alpha_from_white, composite, contact_sheet, save_png

FORMATS = ("mp4", "gif", "png")
OURS = re.compile(r"[0-9]+\.png|(input|contact|orbit)\.png|views\.(mp4|gif)|(transforms|run)\.json")  # files of the folder

log = logging.getLogger("sgm")


class ViewsError(InputError):
    """A folder that cannot be written; the message names it and says what to do."""


@dataclass
class Views:
    """Generated frames and what they belong to.

    frames (T, H, W, 3) uint8 on white; the last one is the input if `orbit` is given. source (H, W, 4) uint8: the input
    as the network saw it, straight alpha. run: what run.json says.
    """
    frames: np.ndarray
    source: np.ndarray
    orbit: Optional[Orbit] = None
    run: dict = field(default_factory=dict)

    def rgba(self):
        """Frames with the silhouette estimated from their white background: (T, H, W, 4) uint8, straight alpha."""
        cut = [alpha_from_white(frame) for frame in self.frames]
        if self.orbit is not None:
            cut[-1] = self.source
        return np.stack(cut)

    def save(self, folder, background="transparent", fps=7, formats=FORMATS):
        """Write the views folder, whole or not at all; replaces an earlier one. -> its Path.

        background: "transparent" (RGBA files), or an (r, g, b) on which frames are put (RGB files). "png" among `formats`
        is contact.png and orbit.png; the numbered views are always written. A video that cannot be encoded is left out
        with a warning; views.gif then stands for it. Raises ViewsError, and OSError when the disk is full.
        """
        check_replaceable(folder)
        place = Path(folder).resolve()
        partial, old = (place.with_name(f".{place.name}.{what}") for what in ("partial", "old"))
        _settle(place, partial, old)            # what a run left behind that was killed
        partial.mkdir(parents=True)
        try:
            self._write(partial, background, fps, formats)
            if place.exists():      # aside first: half deleted it would look finished
                os.replace(place, old)
            os.replace(partial, place)
        finally:
            _settle(place, partial, old)
        return Path(folder)

    def _write(self, folder, background, fps, formats):
        shown = self.frames
        if self.orbit is None:
            files = list(self.frames)
        else:
            files = self.rgba()
            if background != "transparent":
                files = shown = np.stack([composite(view, background) for view in files])
        for k, view in enumerate(files):
            save_png(folder / f"{k:03d}.png", view)
        save_png(folder / "input.png", self.source)
        if "png" in formats:
            save_png(folder / "contact.png", contact_sheet(shown, columns=7))
        if self.orbit is not None:
            write_transforms(folder, self.orbit, shown.shape[1], distance=DISTANCE)
            if "png" in formats:
                save_png(folder / "orbit.png", plot_orbit(self.orbit))
        filmed = "mp4" not in formats or write_video(folder / "views.mp4", _even(shown), fps)
        if "gif" in formats or not filmed:
            first, *others = map(Image.fromarray, shown)
            first.save(folder / "views.gif", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
        (folder / "run.json").write_text(json.dumps(self.run, indent=1))


def is_finished(folder):
    """Whether `folder` is a views folder that was written to its end (it appears at once, run.json in it)."""
    return (Path(folder) / "run.json").is_file()


def _settle(place, partial, old):
    """Put the folder that was set aside back if none took its place, and remove the rest."""
    if old.exists() and not place.exists():
        os.replace(old, place)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def check_replaceable(folder):
    """Raise ViewsError if `folder` is a file, or holds anything but an earlier views folder: saving would delete it."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ViewsError(f"{folder}: found a file, expected a folder or nothing; move it, or give another --output")
    if folder.is_dir() and not is_finished(folder):
        strange = sorted(path.name for path in folder.iterdir() if not OURS.fullmatch(path.name))
        if strange:
            raise ViewsError(f"{folder}: found {strange[0]}, expected a views folder or nothing, because it would be"
                             " replaced; move it, or give another --output")


def write_video(path, frames, fps):
    """Encode frames (T, H, W, 3) with even sides as H.264; -> whether that went well, else a warning says why not."""
    height, width = frames.shape[1:3]
    try:
        writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, codec="libx264", quality=8,
                                             macro_block_size=2, ffmpeg_log_level="quiet")
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        # ffmpeg's exit code is not to be had: that it ran out of disk shows only in the file
        if imageio_ffmpeg.count_frames_and_secs(str(path))[0] == len(frames):
            return True
        reason = "frames are missing in it"
    except Exception as error:  # no ffmpeg, one that stops early, a file that it cannot read back: all sorts come out
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    path.unlink(missing_ok=True)
    log.warning("%s: cannot be written (%s); views.gif holds the frames. Free disk space, or see that the ffmpeg of"
                " imageio-ffmpeg runs", path.name, one_line(reason))
    return False


def _even(frames):
    """Video codecs want even sides: repeat the last row and column where one is odd."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def plot_orbit(orbit, side=420):
    """Two panels: cameras seen from above (input view in red), elevation over azimuth. (side, 2 side, 3) uint8."""
    panel = np.full((side, 2 * side, 3), 255, np.uint8)
    ink, grey, red, blue = (40, 40, 40), (200, 200, 200), (214, 39, 40), (31, 119, 180)

    def text(words, x, y, color=ink):
        cv2.putText(panel, words, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)

    centre, radius = side / 2, side * 0.36
    cv2.circle(panel, (int(centre), int(centre)), int(radius), grey, 1, cv2.LINE_AA)
    cv2.circle(panel, (int(centre), int(centre)), 5, ink, -1, cv2.LINE_AA)
    angles = np.deg2rad(orbit.camera_azimuths_deg)
    reach = np.cos(np.deg2rad(orbit.elevations_deg))
    last = len(orbit) - 1
    for k, (angle, near) in enumerate(zip(angles, reach)):
        x, y = centre + radius * near * np.cos(angle), centre - radius * near * np.sin(angle)
        cv2.circle(panel, (int(x), int(y)), 5, red if k == last else blue, -1, cv2.LINE_AA)
        text(str(k), x + 7, y - 5)
    text("from above: x right, y up; red = input", 12, 20)
    left, right, top, bottom = side + 50, 2 * side - 20, 40, side - 50
    low, high = np.floor(orbit.elevations_deg.min() / 10) * 10 - 10, np.ceil(orbit.elevations_deg.max() / 10) * 10 + 10
    place = lambda a, e: (int(left + a / 360 * (right - left)),  # noqa: E731
                          int(bottom - (e - low) / (high - low) * (bottom - top)))
    for e in np.arange(low, high + 1, 10):
        cv2.line(panel, place(0, e), place(360, e), grey, 1)
        text(f"{e:.0f}", side + 14, place(0, e)[1] + 4)
    for a in range(0, 361, 90):
        text(str(a), place(a, low)[0] - 10, bottom + 18)
    azimuths = np.where(np.arange(len(orbit)) == last, 360, orbit.azimuths_deg)
    points = [place(a, e) for a, e in zip(azimuths, orbit.elevations_deg)]
    for start, end in zip(points[:-1], points[1:]):
        cv2.line(panel, start, end, blue, 1, cv2.LINE_AA)
    for k, point in enumerate(points):
        cv2.circle(panel, point, 4, red if k == last else blue, -1, cv2.LINE_AA)
    text("elevation over azimuth (degrees)", left, 20)
    return panel
