"""Videos or folders of frames, cut into clips, to train image-to-video models on.

A clip is `count` frames, `stride` of the file's frames apart; a video gives as many as fit into it
one after another. The condition is the first frame. Frames are scaled to cover the model's size and
cropped around their middle. fps is the file's own divided by the stride, and the network is
conditioned on it as it is (as on `--fps` of simple_video_sample.py; diffusers subtracts one).
A clips.csv next to the videos overrides fps and motion: see motion.py.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image, ImageOps

from sgm.common.errors import InputError
from sgm.common.files import check_file, natural_key
from sgm.train.data.clips import READING, DataError, hash_of
from sgm.train.data.motion import read_table
from sgm.views.images import IMAGE_SUFFIXES, composite, load_image
from sgm.views.media import probe_video, read_video_frames

VIDEO_SUFFIXES = (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v")
FOLDER_FPS = 7.0        # frames per second of a folder of frames without a clips.csv


@dataclass(frozen=True)
class VideoClip:
    """Frames start, start + stride, ... of a video file, or of a folder of frames (`files`)."""
    path: Path
    start: int
    stride: int
    num_views: int
    size: tuple
    fps: float
    motion: Optional[float] = None
    files: tuple = ()
    angles = None

    @property
    def name(self):
        """Return the clip's file and first frame, for messages."""
        return f"{self.path}[{self.start}:]"

    def frames(self, views=slice(None)):
        """Return the frames `views`, float32 (T, 3, H, W) in [-1, 1]. Raises InputError."""
        levels = self._from_folder(views) if self.files else self._from_file()[views]
        return np.ascontiguousarray((levels.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2))

    def _from_folder(self, views):
        height, width = self.size
        images = [load_image(file) for file in np.array(self.files)[views]]
        return np.stack([composite(ImageOps.fit(image, (width, height), Image.LANCZOS))
                         for image in images])

    def _from_file(self):
        """Return the clip's frames of the file, uint8 (T, H, W, 3). Raises DataError."""
        found, reason = (), "it ends"
        try:
            found = read_video_frames(self.path, self.start, self.stride, self.num_views, self.size)
        except Exception as error:      # anything that ffmpeg or the parsing of its output meets
            reason = _last_line(error)
        if len(found) != self.num_views:
            last = self.start + self.stride * (self.num_views - 1)
            raise DataError(f"{self.path}: frames {self.start} to {last}: {len(found)} of"
                            f" {self.num_views} can be read ({reason}); encode it again")
        return found

    def digest(self, memo):
        """Return a hash of the clip's frames; memo: a Memo of the files' contents."""
        files = self.files or (self.path,)
        contents = [memo.content(file) for file in files]
        return hash_of(READING, self.start, self.stride, self.num_views, *contents)


def read_video(path, count, size, stride, memo):
    """Return the clips of `count` frames of `size` (H, W) in a video file or a folder of frames.

    The result is a list of VideoClip, not empty. Raises InputError: ffmpeg cannot read the file, or
    it has too few frames.
    """
    path = Path(path)
    check_file(path, DataError)
    noted = read_table(path.parent).get(path.name, {})
    if path.is_dir():
        files = tuple(sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES
                              and not f.name.startswith(".")), key=natural_key))
        total, fps = len(files), FOLDER_FPS
    else:
        files = ()
        total, fps = memo.of(path, "frames and fps", lambda: _probe(path))
    needed = (count - 1) * stride + 1
    if total < needed:
        raise DataError(f"{path}: found {total} frames, expected at least {needed}: {count} of"
                        f" them, {stride} apart (stride)")
    clips = []
    for start in range(0, total - needed + 1, count * stride):
        chosen = files[start:start + needed:stride]
        clips.append(VideoClip(path, start, stride, count, tuple(size),
                               noted.get("fps", fps) / stride, noted.get("motion_bucket"), chosen))
    return clips


def _probe(path):
    """Return [number of frames, frames per second] of a video file. Raises DataError."""
    try:
        frames, fps = probe_video(path)
    except InputError:
        raise
    except Exception as error:          # anything that ffmpeg or the parsing of its output meets
        raise DataError(f"{path}: ffmpeg cannot read it ({_last_line(error)}); expected a video"
                        f" ({' '.join(VIDEO_SUFFIXES)}): encode it again") from None
    if not fps > 0:
        raise DataError(f"{path}: gives no frames per second; add it to clips.csv next to it"
                        " (columns file,fps)")
    return [int(frames), float(fps)]


def _last_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
