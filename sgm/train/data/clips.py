"""What every source of training clips offers, and how many clips may be unreadable.

A *clip* is a run of views of one object or of frames of one video. Every kind (packed.py,
orbits.py, videos.py) has

    name            what messages call it
    num_views       V, the number of stored views
    angles          (azimuths, elevations), each (V,) float64 degrees as the network is conditioned
                    on them, or None for a video
    fps, motion     of a video: frames per second and motion bucket (0 to 255; None: to be
                    estimated); else None
    frames(views)   those views, float32 (n, 3, H, W) in [-1, 1]; raises InputError if they are
                    missing or damaged
    digest(memo)    a hexadecimal hash of what `frames` would return, without decoding it
"""
import hashlib
import json
import logging
import os
import zlib
from pathlib import Path

from sgm.common.errors import InputError, one_line

log = logging.getLogger("sgm")
READING = 2                 # part of a clip's hash; raise it when the same files give other pixels
MAX_SKIPPED_SHARE = 0.05    # more than this is not a few damaged files, but a mistake


class DataError(InputError):
    """Training data that cannot be used; one line that names the file or the recipe's key."""


class Clips:
    """Clips of one size.

    `num_frames`: the least number of views that one of them has; `size`: (H, W) pixels. Raises
    DataError if there is none.
    """

    def __init__(self, items, size):
        if not items:
            raise DataError("data: found no clip; expected packed sets or folders of"
                            " tools/render_orbits.py, or videos (--set data=[...])")
        self.items = list(items)
        self.num_frames = min(clip.num_views for clip in self.items)
        self.height, self.width = size

    @property
    def size(self):
        """Return the pixels of a side, if frames are square (orbits)."""
        return self.height

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def frames(self, index, views=slice(None)):
        """Return views of clip `index` as float32 (n, 3, H, W) in [-1, 1]."""
        return self.items[index].frames(views)


class SkippedClips:
    """Counts unreadable clips: warns once per clip, and stops the run if there are too many."""

    def __init__(self):
        self.reasons = {}

    def add(self, name, reason):
        """Leave a clip out, with a warning the first time."""
        if name not in self.reasons:
            self.reasons[name] = one_line(str(reason))
            log.warning("skipped %s: %s", one_line(name), self.reasons[name])

    def check(self, total):
        """Raise DataError if more than `MAX_SKIPPED_SHARE` of `total` clips were skipped.

        total: readable and skipped clips.
        """
        if len(self.reasons) > MAX_SKIPPED_SHARE * total:
            listed = "; ".join(f"{name}: {reason}" if name not in reason else reason
                               for name, reason in self.reasons.items())
            raise DataError(f"data: {len(self.reasons)} of {total} clips cannot be used, more than"
                            f" {MAX_SKIPPED_SHARE:.0%}; repair or remove them: {listed}")


class Memo:
    """Results that depend on a file's content, stored under its path, size and time of change.

    They are appended line by line to `path` (None: only in memory), so a kill loses at most the
    line being written. Each line has its checksum; damaged ones are left out with a warning, and
    what they held is computed again.
    """

    def __init__(self, path=None):
        self.path, self.known, self.end = path and Path(path), {}, "\n"
        if self.path is None or not self.path.is_file():
            return
        text, damaged = self.path.read_text(encoding="utf-8", errors="replace"), []
        lines, self.end = text.splitlines(), text[-1:] or "\n"
        for number, line in enumerate(lines, 1):
            try:
                key, value, *check = json.loads(line)
                if check and check != [_checksum(key, value)]:
                    raise ValueError
                self.known[key] = value
            except (ValueError, TypeError, RecursionError):
                if line.endswith("]"):      # else a killed process was writing it
                    damaged.append(number)
        if damaged:
            log.warning("%s: %d damaged lines, the first is line %d: what they held is computed"
                        " again", self.path, len(damaged), damaged[0])

    def of(self, file, what, compute):
        """Return `compute()`, or the file's stored result named `what`; it must be a JSON value."""
        status = os.stat(file)
        key = f"{Path(file).absolute()}|{status.st_size}|{status.st_mtime_ns}|{what}"
        if key not in self.known:
            self.known[key] = value = compute()
            if self.path is not None:
                # behind a line that was being written a new one begins
                line = json.dumps([key, value, _checksum(key, value)]) + "\n"
                with open(self.path, "a", encoding="utf-8") as out:
                    out.write(line if self.end == "\n" else "\n" + line)
                self.end = "\n"
        return self.known[key]

    def content(self, file):
        """Return the hash of a file's content."""
        return self.of(file, "content", lambda: hash_file(file))


def _checksum(key, value):
    return zlib.crc32(json.dumps([key, value]).encode())


def hash_file(path):
    """Return BLAKE2b (16 bytes, hexadecimal) of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_of(*parts):
    """Return BLAKE2b (16 bytes, hexadecimal) of the texts of `parts`."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogateescape"),
                           digest_size=16).hexdigest()
