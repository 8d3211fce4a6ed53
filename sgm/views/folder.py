"""The views folder, the contract between the two halves: pictures, cameras, run record."""
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np

from sgm.common.errors import InputError
from sgm.views.cameras import DISTANCE, Orbit
from sgm.views.images import composite, write_png
from sgm.views.matting import alpha_from_white
from sgm.views.media import contact_sheet, plot_orbit, write_gif, write_video
from sgm.views.transforms import write_transforms

FORMATS = ("mp4", "gif", "png")
# files of the folder
OURS = re.compile(r"[0-9]+\.png|(input|contact|orbit)\.png|views\.(mp4|gif)|(transforms|run)\.json")
log = logging.getLogger("sgm")


class ViewsError(InputError):
    """A folder that cannot be written; the message names it and says what to do."""


@dataclass(repr=False)
class Views:
    """Generated frames and what they belong to.

    frames (T, H, W, 3) uint8 on white; the last one is the input if `orbit` is given. source (H, W,
    4) uint8: the input as the network saw it, straight alpha. run: what run.json says.
    """
    frames: np.ndarray
    source: np.ndarray
    orbit: Optional[Orbit] = None
    run: dict = field(default_factory=dict)

    def __repr__(self):
        count, height, width, _ = self.frames.shape
        kind = "a video" if self.orbit is None else "an orbit"
        return f"<Views: {count} views of {height}x{width}, {kind}>"

    def rgba(self):
        """Return the frames with alpha from their white background: (T, H, W, 4) uint8."""
        cut = [alpha_from_white(frame) for frame in self.frames]
        if self.orbit is not None:
            cut[-1] = self.source
        return np.stack(cut)

    def save(self, folder, background="transparent", fps=7, formats=FORMATS):
        """Write the views folder, whole or not at all; an earlier one is replaced. Return its Path.

        background: "transparent" (RGBA files), or an (r, g, b) on which frames are put (RGB files).
        "png" among `formats` is contact.png and orbit.png; the numbered views are always written. A
        video that cannot be encoded is left out with a warning; views.gif then stands for it.
        Raises ViewsError, and OSError when the disk is full.
        """
        check_replaceable(folder)
        place = Path(folder).resolve()
        partial, old = (place.with_name(f".{place.name}.{what}") for what in ("partial", "old"))
        _clean_up(place, partial, old)            # what a killed run left
        partial.mkdir(parents=True)
        try:
            self._write(partial, background, fps, formats)
            if place.exists():      # aside first: half deleted it would look finished
                os.replace(place, old)
            os.replace(partial, place)
        finally:
            _clean_up(place, partial, old)
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
            write_png(folder / f"{k:03d}.png", view)
        write_png(folder / "input.png", self.source)
        if "png" in formats:
            write_png(folder / "contact.png", contact_sheet(shown, columns=7))
        if self.orbit is not None:
            write_transforms(folder, self.orbit, shown.shape[1], distance=DISTANCE)
            if "png" in formats:
                write_png(folder / "orbit.png", plot_orbit(self.orbit))
        has_video = "mp4" not in formats or write_video(folder / "views.mp4", shown, fps)
        if "gif" in formats or not has_video:
            write_gif(folder / "views.gif", shown, fps)
        (folder / "run.json").write_text(json.dumps(self.run, indent=1))


def is_finished(folder):
    """Return whether `folder` is a complete views folder: it appears at once, with run.json."""
    return (Path(folder) / "run.json").is_file()


def _clean_up(place, partial, old):
    """Put the folder that was set aside back if none took its place, and remove what is left."""
    if old.exists() and not place.exists():
        os.replace(old, place)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def check_replaceable(folder):
    """Raise ViewsError if `folder` is a file, or holds anything that saving would delete.

    An earlier views folder is replaced.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ViewsError(f"{folder}: found a file, expected a folder or nothing; move it, or give"
                         " another --output")
    if folder.is_dir() and not is_finished(folder):
        others = sorted(path.name for path in folder.iterdir() if not OURS.fullmatch(path.name))
        if others:
            raise ViewsError(f"{folder}: found {others[0]}, expected a views folder or nothing,"
                             " because it would be replaced; move it, or give another --output")
