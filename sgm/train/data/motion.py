"""The motion bucket of a clip, which SVD is conditioned on: from a table, or estimated."""
import csv
import logging
import math
import os
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from sgm.common.errors import one_line
from sgm.common.files import check_file
from sgm.train.data.clips import DataError

FLOW_SIDE = 128         # pixels of the longer side of the pictures that flow is computed on
FULL_MOTION = 0.02      # of the frame's width per frame: what bucket 255 stands for
TABLE = "clips.csv"     # in the folder of the videos
COLUMNS = ("file", "fps", "motion_bucket")
log = logging.getLogger("sgm")


def motion_bucket(frames):
    """Return the motion bucket, 0 to 255, of frames (T, 3, H, W) in [-1, 1], T >= 1.

    255 times the mean length of the optical flow from each frame to the next (Farneback's, on gray
    pictures of at most `FLOW_SIDE` pixels), in units of the frame's width, divided by
    `FULL_MOTION`, at most 255: the usual bucket 127 is a mean motion of one hundredth of the width
    per frame. SVD's authors say that flow was used and not how it was scaled (arXiv 2311.15127,
    app. C), so the scale is ours; give the buckets in clips.csv to use another.
    """
    gray = [_small_gray(frame) for frame in frames]
    if len(gray) < 2:
        return 0.0
    speeds = []
    for before, after in zip(gray[:-1], gray[1:]):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        speeds.append(np.linalg.norm(flow, axis=-1).mean() / gray[0].shape[1])
    return float(min(255.0, 255 * np.mean(speeds) / FULL_MOTION))


def _small_gray(frame):
    levels = ((frame.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    gray = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)
    scale = FLOW_SIDE / max(gray.shape)
    if scale >= 1:
        return gray
    return cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def read_table(folder):
    """Return {file name: {"fps": float, "motion_bucket": float}} of the clips.csv in `folder`.

    It is {} if there is none. Its columns are file, and fps or motion_bucket or both; an empty cell
    means that the value is estimated. Raises DataError naming the line, also for a file that is
    not in the folder and for one that is named twice.
    """
    path = Path(folder) / TABLE
    check_file(path, DataError)
    if not path.is_file():
        return {}
    status = path.stat()
    return _read_table(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=16)      # it is asked for with every video of the folder
def _read_table(path, changed):
    known, there = {}, set(os.listdir(path.parent))
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = set(reader.fieldnames or ())
            if "file" not in columns or not columns & {"fps", "motion_bucket"}:
                raise DataError(f"data: {path}: found the columns"
                                f" {', '.join(map(str, reader.fieldnames or ['none']))}, expected"
                                " file, and fps or motion_bucket or both")
            if others := [str(name) for name in reader.fieldnames if name not in COLUMNS]:
                log.warning("%s: its columns %s are not read; known are %s", path,
                            one_line(", ".join(others)), ", ".join(COLUMNS))
            for row in reader:
                where = f"data: {path}, line {reader.line_num}"
                if None in row:
                    raise DataError(f"{where}: has more cells than there are columns; write"
                                    " decimals with a point, or put quotes around a comma")
                if not row["file"]:
                    raise DataError(f"{where}: has no file; name the video or frame folder")
                values = {
                    name: _number(row[name], f"{where}: {name}", low, high)
                    for name, low, high in (("fps", 0.01, 1000), ("motion_bucket", 0, 255))
                    if row.get(name)
                }
                file_name = row["file"].rstrip("/")
                if file_name not in there or file_name in known:
                    found = "again" if file_name in known else f"which is not in {path.parent}"
                    raise DataError(f"{where}: names {file_name}, {found}; correct or remove the"
                                    " line: a table is for the files next to it")
                known[file_name] = values
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"data: {path}: cannot be read ({error}); expected a table with the columns"
                        " file, fps, motion_bucket"
                        ) from None
    return known


def _number(text, where, low, high):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise DataError(f"{where} is {text!r}, expected a number from {low:g} to {high:g}")
    return value
