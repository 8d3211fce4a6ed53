"""The views folder, the contract between the two halves: PNGs, cameras, how they were made, and things to look at."""
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import cv2
import imageio.v2 as imageio
import numpy as np

from sgm.cameras import DISTANCE, Orbit, write_transforms
from sgm.images import alpha_from_white, composite, contact_sheet

FORMATS = ("mp4", "gif", "png")


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
        is contact.png and orbit.png; the numbered views are always written.
        """
        folder = Path(folder)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self._write(partial, background, fps, formats)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def _write(self, folder, background, fps, formats):
        shown = self.frames
        if self.orbit is None:
            files = list(self.frames)
        else:
            files = self.rgba()
            if background != "transparent":
                files = shown = np.stack([composite(view, background) for view in files])
        for k, view in enumerate(files):
            imageio.imwrite(folder / f"{k:03d}.png", view)
        imageio.imwrite(folder / "input.png", self.source)
        if "png" in formats:
            contact_sheet(shown, columns=7).save(folder / "contact.png")
        if self.orbit is not None:
            write_transforms(folder, self.orbit, shown.shape[1], distance=DISTANCE)
            if "png" in formats:
                imageio.imwrite(folder / "orbit.png", plot_orbit(self.orbit))
        if "mp4" in formats:
            imageio.mimwrite(folder / "views.mp4", _even(shown), fps=fps, quality=8, macro_block_size=2)
        if "gif" in formats:
            imageio.mimwrite(folder / "views.gif", shown, duration=1000 / fps, loop=0)
        (folder / "run.json").write_text(json.dumps(self.run, indent=1))


def is_finished(folder):
    """Whether `folder` is a views folder that was written to its end (it appears at once, run.json in it)."""
    return (Path(folder) / "run.json").is_file()


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
