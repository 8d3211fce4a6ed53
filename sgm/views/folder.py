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

from sgm.common.errors import InputError, argument
from sgm.common.records import described, differing
from sgm.config.model import FPS, MAX_FPS
from sgm.views.cameras import DISTANCE, Orbit
from sgm.views.images import composite, parse_background, write_png
from sgm.views.matting import alpha_from_white
from sgm.views.media import contact_sheet, plot_orbit, write_gif, write_video
from sgm.views.transforms import json_path, write_transforms

FORMATS = ("mp4", "gif", "png")
# files of the folder; those of one folder are listed in its run.json
OURS = re.compile(
    r"[0-9]{3,}\.png|(input|input_matte|contact|orbit)\.png|views\.(mp4|gif)|(transforms|run)\.json")
# those that only some have: ours if they are listed
LISTED = re.compile(r"fitted\.png|mesh\.glb")
# those without which the views are not whole
NEEDED = re.compile(r"[0-9]{3,}\.png|transforms\.json|mesh\.glb")
# what run.json says of a run that its views do not depend on
INCIDENTAL = ("stages", "versions", "device", "files", "image.cut_out")
log = logging.getLogger("sgm")


class ViewsError(InputError):
    """A folder that cannot be written; the message names it and says what to do."""


@dataclass(repr=False)
class Views:
    """Generated frames and what they belong to.

    frames (T, H, W, 3) uint8 on white; the last one is the input if `orbit` is given. source (H, W,
    4) uint8: the input as the network saw it, straight alpha. run: what run.json says. fps: frames
    per second of the video. matte (h, w, 3) uint8: the given picture with what was cut away in red.
    cut (T, H, W, 4) uint8: the frames with straight alpha where that is known.
    """
    frames: np.ndarray
    source: np.ndarray
    orbit: Optional[Orbit] = None
    run: dict = field(default_factory=dict)
    fps: float = FPS
    matte: Optional[np.ndarray] = None
    cut: Optional[np.ndarray] = None

    def __repr__(self):
        count, height, width, _ = self.frames.shape
        kind = "a video" if self.orbit is None else "an orbit"
        return f"<Views: {count} views of {height}x{width}, {kind}>"

    def rgba(self):
        """Return the frames with alpha, from their white background if it is not known.

        They are (T, H, W, 4) uint8.
        """
        if self.cut is not None:
            return self.cut
        cut = [alpha_from_white(frame) for frame in self.frames]
        if self.orbit is not None:
            cut[-1] = self.source
        return np.stack(cut)

    def save(self, folder, background="transparent", fps=None, formats=FORMATS, overwrite=False):
        """Write the views folder, whole or not at all. Return its Path.

        background: "transparent" (RGBA files), or an (r, g, b) on which frames are put (RGB files).
        fps: frames per second of the video, by default `self.fps`. formats: extra files besides the
        views themselves; a video that cannot be encoded becomes a GIF. overwrite: replace the views
        that the folder holds; what else is in it, a mesh for example, stays.
        Raises ViewsError, also for a folder that holds views without `overwrite`, and OSError when
        the disk is full.
        """
        background, fps = _background(background), self.fps if fps is None else fps
        if not 0 < fps <= MAX_FPS:
            raise ViewsError(f"fps: found {fps}, expected more than 0, up to {MAX_FPS}")
        unknown = set(formats) - set(FORMATS)
        if unknown:
            raise ViewsError(f"formats: found {', '.join(map(repr, sorted(unknown)))}, expected any"
                             f" of {', '.join(FORMATS)}")
        check_replaceable(folder)
        if is_finished(folder) and not overwrite:
            raise ViewsError(f"{folder}: holds views already;"
                             f" {argument('overwrite=True', '--overwrite')} replaces them, or give"
                             " another folder")
        place, partial, old = _places(folder)
        shutil.rmtree(partial, ignore_errors=True)          # what a killed run left
        partial.mkdir(parents=True)
        try:
            self._write(partial, background, fps, formats)
            kept = _foreign(place)
            for name in kept:
                if (partial / name).exists():
                    raise ViewsError(f"{place / name}: is not of the views, and would be replaced;"
                                     " move it, or give another folder")
            if place.exists():      # aside first: half deleted it would look finished
                os.replace(place, old)
            os.replace(partial, place)
        finally:
            _tidy(place, partial, old)
        if kept:
            log.warning("%s: replaced its views and kept what else is in it (%s); a mesh in it is"
                        " still that of the earlier views", folder, ", ".join(kept[:5]))
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
        if self.matte is not None:
            write_png(folder / "input_matte.png", self.matte)
        if "png" in formats:
            write_png(folder / "contact.png", contact_sheet(shown, columns=7))
        if self.orbit is not None:
            write_transforms(folder, self.orbit, shown.shape[1:3], distance=DISTANCE)
            if "png" in formats:
                write_png(folder / "orbit.png", plot_orbit(self.orbit))
        has_video = "mp4" not in formats or write_video(folder / "views.mp4", shown, fps)
        if "gif" in formats or not has_video:
            write_gif(folder / "views.gif", shown, fps)
        files = sorted(path.name for path in folder.iterdir())
        saved = output_record(background, fps, formats)
        (folder / "run.json").write_text(
            json.dumps({**self.run, **saved, "files": [*files, "run.json"]}, indent=1))


def output_record(background, fps, formats):
    """Return what run.json says of the way in which views were saved; arguments as of `save`."""
    background = background if isinstance(background, str) else list(background)
    return {"output": {"background": background, "fps": fps, "formats": sorted(formats)}}


def is_finished(folder):
    """Return whether `folder` is a complete views folder: it appears at once, with run.json."""
    return (Path(folder) / "run.json").is_file()


def check_same(folder, run):
    """Raise ViewsError unless a finished folder is what a run would make again.

    Every view that its run.json lists must be there. run: what run.json will say. What it leaves
    out is not compared, nor what the run.json of an earlier version of this program lacks.
    """
    before = _record(folder)
    if not before:
        raise ViewsError(f"{Path(folder) / 'run.json'}: is damaged, so that nothing says what the"
                         f" views were made with; {_remedy()}")
    listed = before.get("files")
    for name in map(str, listed if isinstance(listed, list) else ()):
        file = Path(folder) / name
        if NEEDED.fullmatch(name) and not (file.is_file() and file.stat().st_size):
            raise ViewsError(f"{file}: is {'empty' if file.is_file() else 'missing'}, expected a"
                             f" file of a finished folder; {_remedy()}")
    run = json.loads(json.dumps(run))           # as it will be read: tuples become lists
    both = [key for key in run if key in before]
    names = [name for name in differing(*({key: one[key] for key in both} for one in (before, run)))
             if name not in INCIDENTAL and name.partition(".")[0] not in INCIDENTAL]
    if names:
        raise ViewsError(f"{folder}: its views were made otherwise ({described(names, before, run)}"
                         f"); {_remedy()}")


def is_elevation_unknown(path):
    """Return whether the elevation of views is only a label, by the run.json beside their cameras.

    path: the folder or its transforms.json. sv3d_u chooses an elevation and tells nobody; so does
    whatever made pictures that came without cameras.
    """
    run = read_run(path)
    return run.get("model") == "sv3d_u" or run.get("elevation") == "unknown"


def elevation_estimate(path):
    """Return the degrees that a network told of the input view, by run.json; None if it did not.

    path: the folder or its transforms.json.
    """
    image = read_run(path).get("image")
    estimate = image.get("elevation_estimate") if isinstance(image, dict) else None
    return estimate if isinstance(estimate, (int, float)) else None


def read_run(path):
    """Return what the run.json beside views says; {} where there is none, or a damaged one.

    path: the folder or its transforms.json.
    """
    return _record(json_path(path).parent) or {}


def check_replaceable(folder):
    """Raise ViewsError unless `folder` is a views folder, empty, or not there.

    One that a killed run has set aside is put back first.
    """
    place, partial, old = _places(folder)
    if old.exists():
        _tidy(place, partial, old)
    if place.exists() and not place.is_dir():
        raise ViewsError(f"{folder}: found a file, expected a folder or nothing; move it, or give"
                         " another folder")
    if place.is_dir() and not is_finished(place):
        found = min((path.name for path in place.iterdir()), default=None)
        if found:
            raise ViewsError(f"{folder}: found {found}, expected a views folder or nothing; move"
                             " it, or give another folder")


def _remedy():
    return f"{argument('overwrite=True', '--overwrite')} makes it again, or give another folder"


def _places(folder):
    """Return the folder itself, and those next to it for the new views and for the earlier ones."""
    place = Path(folder).resolve()
    return place, *(place.with_name(f".{place.name}.{what}") for what in ("partial", "old"))


def _record(folder):
    """Return what the run.json of a folder says; None if it is not there or damaged."""
    try:
        found = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _foreign(folder):
    """Return the sorted names of what saving did not write into a views folder."""
    if not folder.is_dir():
        return []
    listed = (_record(folder) or {}).get("files")
    listed = {str(name) for name in listed} if isinstance(listed, list) else None

    def is_ours(name):
        if listed is None:
            return OURS.fullmatch(name)
        return name in listed and (OURS.fullmatch(name) or LISTED.fullmatch(name))
    return sorted(path.name for path in folder.iterdir()
                  if path.is_dir() or not is_ours(path.name))


def _tidy(place, partial, old):
    """Put the folder that was set aside back, or only what is not ours in it; remove what is left.
    """
    if old.exists() and not place.exists():
        os.replace(old, place)
    for name in _foreign(old):
        if not (place / name).exists():
            os.replace(old / name, place / name)
    if not _foreign(old):
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)


def _background(value):
    """Return a background as "transparent" or three levels. Raises ImageError."""
    return parse_background(value if isinstance(value, str) else ",".join(map(str, value)))
