"""Contact sheets, videos and plots of views."""
import logging

import cv2
import imageio_ffmpeg
import numpy as np
from PIL import Image

from sgm.common.errors import one_line
from sgm.views.images import composite


def contact_sheet(frames, columns=7):
    """Equally large frames, uint8 (T, H, W, 3 or 4), side by side on white, row by row -> PIL RGB."""
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


log = logging.getLogger("sgm")


def write_video(path, frames, fps):
    """Encode frames (T, H, W, 3) as H.264, odd sides made even; -> whether that went well, else a warning says why not."""
    frames = _even(frames)
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
