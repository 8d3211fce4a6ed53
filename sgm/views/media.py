"""Writes contact sheets, videos and plots of views; reads videos."""
import logging
import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path

import cv2
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageOps

from sgm.common.errors import InputError, one_line
from sgm.common.files import check_file
from sgm.views.images import MAX_PIXELS, composite

# Containers that ffmpeg may open: not its playlists, which name other files and addresses.
CONTAINERS = ("mov,mp4,matroska,webm,gif,avi,m4v,mpegts,mpeg,mpegvideo,ogg,flv,asf,h264,hevc,ivf,"
              "apng")
# The decoders that ffmpeg takes by itself leave out the alpha of these codecs.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_HAS_ALPHA = re.compile("yuva|rgba|bgra|argb|abgr|gbrap|ya8|ya16|ayuv|pal8")     # formats of pixels
_OTHER_COLORS = re.compile("smpte2084|arib-std-b67|bt2020|smpte43[12]")
# ffmpeg turns sRGB into BT.601 unless told otherwise, and players take an untagged video for BT.709
# or BT.601 by its size. faststart: the index comes first, so that a browser plays while it loads.
BT709 = ("-vf", "scale=out_color_matrix=bt709:out_range=tv,"
         "setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709",
         "-color_range", "tv", "-color_primaries", "bt709", "-color_trc", "bt709",
         "-colorspace", "bt709", "-movflags", "+faststart")
log = logging.getLogger("sgm")
# it warns of every video that is scaled
logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)


def contact_sheet(frames, columns=7):
    """Return frames of equal size, uint8 (T, H, W, 3 or 4), row by row on white as PIL RGB."""
    frames = np.asarray(frames)
    if frames.shape[-1] == 4:
        frames = np.stack([composite(frame) for frame in frames])
    count, height, width, _ = frames.shape
    columns = min(columns, count)
    sheet = np.full((-(-count // columns) * height, columns * width, 3), 255, np.uint8)
    for k, frame in enumerate(frames):
        y, x = k // columns * height, k % columns * width
        sheet[y:y + height, x:x + width] = frame
    return Image.fromarray(sheet)


def write_video(path, frames, fps):
    """Encode uint8 frames (T, H, W, 3) as H.264 in BT.709, odd sides made even.

    Return whether it worked.

    If not, a warning says why. The file is read back: one that a full disk cuts off is removed.
    """
    frames = _even(frames)
    try:
        iio.imwrite(path, frames, plugin="FFMPEG", extension=".mp4", is_batch=True, fps=fps,
                    codec="libx264", quality=8, macro_block_size=2, ffmpeg_log_level="quiet",
                    output_params=list(BT709))
        # ffmpeg's exit code cannot be had: that it ran out of disk shows only in the file
        if probe_video(path)[0] == len(frames):
            return True
        reason = "frames are missing in it"
    # no ffmpeg, one that stops early, a file that cannot be read back: any error can occur
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    path.unlink(missing_ok=True)
    log.warning("%s: cannot be written (%s); views.gif holds the frames. Free disk space, or see"
                " that the ffmpeg of imageio-ffmpeg runs", path.name, one_line(reason))
    return False


def write_gif(path, frames, fps):
    """Write uint8 frames (T, H, W, 3) as an endless GIF.

    A GIF counts in hundredths of a second, up to 65535, and browsers play a delay below two of them
    as ten.
    """
    hundredths = min(max(2, round(100 / fps)), 65535)
    iio.imwrite(path, frames, plugin="pillow", extension=".gif", is_batch=True,
                duration=10 * hundredths, loop=0)


def probe_video(path):
    """Return the number of frames of a video file, which is decoded for it, and its frame rate.

    Raises any error of imageio and ffmpeg for a damaged file: OSError, RuntimeError, ..., and
    InputError for what is no file and for too large a picture.
    """
    _stream(path, warn=True)
    with (iio.imopen(Path(path).absolute(), "r", plugin="FFMPEG", extension=".mp4") as file,
          file.legacy_get_reader(input_params=_guards()) as reader):
        return reader.count_frames(), reader.get_meta_data()["fps"]


def read_video_frames(path, start, stride, count, size):
    """Return frames start, start + stride, ... of a video file: uint8 (T, H, W, 3).

    `count` frames, or as many as can be read. size: (H, W). Pixels are made square; frames are
    scaled to cover the size and cropped around their middle, transparent ones put on white. Raises
    what `probe_video` does.
    """
    height, width = size
    path, last = Path(path).absolute(), start + stride * (count - 1)
    codec, has_alpha = _stream(path)
    # Frames are chosen by their number; regular times of their own keep ffmpeg from doubling or
    # dropping any.
    chosen = (f"select=between(n\\,{start}\\,{last})*not(mod(n-{start}\\,{stride})),"
              "settb=1/25,setpts=N,fps=25,scale=max(1\\,round(iw*sar)):ih:flags=lanczos,setsar=1")
    output = ["-map", "0:v:0", "-frames:v", str(count), "-vf"]
    if has_alpha:
        frames = _on_white(path, _guards(ALPHA_DECODERS.get(codec)), [*output, chosen], size)
        if frames is not None:
            return frames
    scaled = (f"{chosen},scale={width}:{height}:force_original_aspect_ratio=increase:flags=lanczos,"
              f"crop={width}:{height}")
    frames = iio.imiter(path, plugin="FFMPEG", extension=".mp4", input_params=_guards(),
                        output_params=[*output, scaled])
    none = np.empty((0, height, width, 3), np.uint8)
    return np.concatenate([none, *(frame[None] for frame in frames)])


def read_video(path, most):
    """Return the first `most` frames of a video file at its own size: uint8 (T, H, W, 3).

    Raises what `probe_video` does.
    """
    _stream(path, warn=True)
    with (iio.imopen(Path(path).absolute(), "r", plugin="FFMPEG", extension=".mp4") as file,
          file.legacy_get_reader(input_params=_guards()) as reader):
        count, (width, height) = reader.count_frames(), reader.get_meta_data()["size"]
    return read_video_frames(path, 0, 1, min(count, most), (height, width))


def _on_white(path, guards, output, size):
    """Return frames as those of a folder of pictures, or None if all of them are opaque."""
    reader = imageio_ffmpeg.read_frames(str(path), "rgba", 4, input_params=guards,
                                        output_params=output)
    width, height = next(reader)["size"]
    frames, is_opaque = [], True
    for raw in reader:
        frame = np.frombuffer(raw, np.uint8).reshape(height, width, 4)
        is_opaque = is_opaque and frame[..., 3].min() == 255
        fitted = ImageOps.fit(Image.fromarray(frame), size[::-1], Image.LANCZOS)
        frames.append(composite(fitted))
    return None if is_opaque else np.stack(frames)


def _guards(decoder=None):
    """Return options for ffmpeg in front of a file that comes from anywhere."""
    return ["-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS,
            *(["-c:v", decoder] if decoder else [])]


@lru_cache(maxsize=1024)        # a clip is read in each step, if it is not cached
def _told(path, changed):
    """Return what ffmpeg says of a file; changed: when it was."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *_guards(), "-i", path]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    return ended.stderr.decode(errors="replace")


def _stream(path, warn=False):
    """Return the codec of a file's first video stream, and whether it can have alpha.

    warn: of colors that are not those of sRGB, as phones film in HDR; their levels are taken as is.
    Raises InputError for what is no file, and for pictures that would not fit into memory: ffmpeg
    holds about ten at once.
    """
    check_file(path)
    told = _told(Path(path).absolute(), os.stat(path).st_mtime_ns)
    found = re.search(r"Stream #.* Video: (\w+)(.*)", told)
    if not found:
        return None, False      # the reading of it says why
    codec, rest = found.groups()
    coded_apart = codec in ALPHA_DECODERS and re.search(r"alpha_mode\s*: 1", told)
    has_alpha = bool(coded_apart or _HAS_ALPHA.search(rest))
    size = re.search(r" ([0-9]+)x([0-9]+)\b", rest)
    most = MAX_PIXELS // 4 if has_alpha else MAX_PIXELS
    if size and int(size[1]) * int(size[2]) > most:
        raise InputError(f"{path}: found {size[1]} x {size[2]} pixels, expected at most {most} in a"
                         " video of its kind; make it smaller")
    colors = _OTHER_COLORS.search(rest)
    if warn and colors:
        log.warning("%s: its colors are those of %s, and are taken as usual ones; convert it to SDR"
                    " (BT.709)", one_line(str(path)), colors[0])
    return codec, has_alpha


def _even(frames):
    """Return frames with even sides, as video codecs need: the last row or column is repeated."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def plot_orbit(orbit, side=420):
    """Return a plot of an orbit, (side, 2 side, 3) uint8.

    Two panels: cameras seen from above (input view in red), and elevation over azimuth.
    """
    panel = np.full((side, 2 * side, 3), 255, np.uint8)
    ink, gray, red, blue = (40, 40, 40), (200, 200, 200), (214, 39, 40), (31, 119, 180)

    def text(words, x, y, color=ink):
        cv2.putText(panel, words, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1,
                    cv2.LINE_AA)

    center, radius = side / 2, side * 0.36
    cv2.circle(panel, (int(center), int(center)), int(radius), gray, 1, cv2.LINE_AA)
    cv2.circle(panel, (int(center), int(center)), 5, ink, -1, cv2.LINE_AA)

    # the cameras seen from above
    angles = np.deg2rad(orbit.camera_azimuths_deg)
    reach = np.cos(np.deg2rad(orbit.elevations_deg))
    last = len(orbit) - 1
    for k, (angle, near) in enumerate(zip(angles, reach)):
        x, y = center + radius * near * np.cos(angle), center - radius * near * np.sin(angle)
        cv2.circle(panel, (int(x), int(y)), 5, red if k == last else blue, -1, cv2.LINE_AA)
        text(str(k), x + 7, y - 5)
    text("from above: x right, y up; red = input", 12, 20)

    # elevation over azimuth
    left, right, top, bottom = side + 50, 2 * side - 20, 40, side - 50
    low = np.floor(orbit.elevations_deg.min() / 10) * 10 - 10
    high = np.ceil(orbit.elevations_deg.max() / 10) * 10 + 10
    place = lambda a, e: (int(left + a / 360 * (right - left)),  # noqa: E731
                          int(bottom - (e - low) / (high - low) * (bottom - top)))
    for e in np.arange(low, high + 1, 10):
        cv2.line(panel, place(0, e), place(360, e), gray, 1)
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
