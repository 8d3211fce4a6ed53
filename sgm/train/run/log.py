"""Crash-safe metrics.csv: rows written by an interrupted run are not duplicated on resume."""
import csv
import logging
import math
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np

from sgm.common.errors import InputError, one_line, os_reason
from sgm.common.files import atomic

# the loss of held-out clips, and of training clips measured alike; dB, and share of the foreground,
# of held-out ones
MEASURED = ("val_loss", "train_val_loss", "val_psnr_fg", "val_iou")
log = logging.getLogger("sgm")
FEW = 40        # rows that are drawn as dots, too: a line through one or two shows nothing
NEEDED = ("step", "loss", "grad_norm", "lr", "seconds")         # that every row has
FIELDS = ("step", "loss", "grad_norm", "lr", "seconds", "clips_per_second", "skipped", *MEASURED)


class Metrics:
    """A run's metrics.csv, opened to continue after step `done`.

    Later rows, and one that was cut off, are dropped; of a damaged file the rows before the damage
    are kept, with a warning, and a copy of it as metrics.damaged.csv. Rows of steps average those
    since the row before; `seconds` counts the run's time without interruptions. board: gets the
    same numbers (`sgm.train.run.log.Board`), or None. Raises InputError when the file cannot be
    written.
    """

    def __init__(self, path, done, clips, board=None):
        self.path, self.clips, self.board = Path(path), clips, board
        kept, trouble = parse_metrics(self.path, done)
        if trouble:
            aside = self.path.with_suffix(".damaged.csv")
            shutil.copyfile(self.path, aside)
            log.warning("%s; it is kept as %s, and goes on after %d good rows", trouble, aside.name,
                        len(kept))
        with (atomic(self.path) as temporary,
              open(temporary, "w", newline="", encoding="utf-8") as file):
            table = csv.DictWriter(file, FIELDS)
            table.writeheader()
            table.writerows(kept)
        self.started = time.monotonic() - (float(kept[-1]["seconds"] or 0) if kept else 0)
        self.last = time.monotonic()
        self.waiting = []

    def add(self, row):
        """Note the `Row` of a step."""
        self.waiting.append(row)

    def show(self, step, sheet):
        """Give the board a picture (H, W, 3) uint8, if there is a board."""
        if self.board is not None:
            self.board.show(step, sheet)

    def averages(self):
        """Return loss, gradient norm and clips per second since the last row, or NaN."""
        good = [row for row in self.waiting if not row.skipped]
        speed = len(self.waiting) * self.clips / max(1e-9, time.monotonic() - self.last)
        if not good:
            return float("nan"), float("nan"), speed
        loss, norm = sum(row.loss for row in good), sum(row.grad_norm for row in good)
        return loss / len(good), norm / len(good), speed

    def write(self, step, **measured):
        """Write a row of what was noted, if anything was.

        measured: the FIELDS that only some steps have, numbers.
        """
        if not self.waiting:
            return
        loss, norm, speed = self.averages()
        skipped, lr = sum(row.skipped for row in self.waiting), self.waiting[-1].lr
        values = [
            step, f"{loss:.6f}", f"{norm:.4f}", f"{lr:.3e}",
            f"{time.monotonic() - self.started:.1f}", f"{speed:.3f}", skipped,
            *(f"{measured[name]:.6f}" if name in measured else "" for name in MEASURED)
        ]
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(values)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {os_reason(error)}") from None
        self.waiting, self.last = [], time.monotonic()
        if self.board is not None:
            self.board.add(step, {"loss": loss, "grad_norm": norm, "lr": lr,
                                  "clips_per_second": speed, **measured})


def read_metrics(path, done=float("inf")):
    """Return the rows up to step `done`, dicts of FIELDS as text, up to the first damaged one.

    That is said in a warning, but for a row that a killed process left incomplete. Raises OSError.
    """
    rows, trouble = parse_metrics(path, done)
    if trouble:
        log.warning("%s; no row from there on is used", trouble)
    return rows


def parse_metrics(path, done=float("inf")):
    """Return (rows, what is wrong behind them or None), see `read_metrics`. Raises OSError."""
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return [], None
    rows, before, lines = [], -1, text.splitlines()
    names = lines[0].split(",") if lines else []
    if lines and not set(NEEDED) <= set(names) <= set(FIELDS):
        return [], _trouble(path, 1, lines[0], f"columns among {', '.join(FIELDS)}")
    for number, line in enumerate(lines[1:], 2):
        row = dict(zip(names, line.split(",")))
        if not _fits(row, before) or line.count(",") >= len(names):
            if number == len(lines) and not text.endswith("\n"):    # killed while it wrote this row
                break
            return rows, _trouble(path, number, line, "numbers in every column, and a later step"
                                                      " than in the row before")
        before = float(row["step"])
        if before <= done:
            rows.append({name: row.get(name) or "" for name in FIELDS})
    return rows, None


def _fits(row, before):
    """Return whether a row is of numbers, with a later step than the row before it."""
    try:
        numbers = {name: float(text) for name, text in row.items() if text or name in NEEDED}
    except ValueError:
        return False
    return (set(NEEDED) <= set(numbers) and before < numbers["step"] < 2 ** 53
            and numbers["step"].is_integer() and 0 <= numbers["seconds"] < math.inf)


def _trouble(path, number, line, expected):
    return one_line(f"{path}: line {number}: found {line[:60]!r}, expected {expected}")


def open_board(folder, done):
    """Return a Board that writes into `folder`, or None without tensorboardX.

    done: events after that step, which a resumed run will write again, are hidden.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return Board(SummaryWriter(str(folder), purge_step=done + 1 if done else None))


class Board:
    """Writes numbers and pictures of steps to a tensorboardX.SummaryWriter."""

    def __init__(self, writer):
        self.writer = writer

    def add(self, step, values):
        """Write {name: number} to the disk; values that are not finite are left out."""
        for name, value in values.items():
            if math.isfinite(value):
                self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def show(self, step, picture):
        """Write a picture (H, W, 3) uint8."""
        self.writer.add_image("held out", picture, step, dataformats="HWC")


def draw_curve(rows, width=720, height=360):
    """Return a picture (H, W, 3) uint8 of losses and learning rate over steps.

    The loss is blue and the held-out loss orange, both logarithmic; the learning rate is gray and
    linear. rows: dicts of text as in metrics.csv, see `read_metrics`. Rows without a finite loss
    are left out; each of few is a dot, too.
    """
    table = np.array([[float(row[name] or "nan") for name in ("step", "loss", "lr", "val_loss")]
                      for row in rows])
    picture = np.full((height, width, 3), 255, np.uint8)
    table = table[np.isfinite(table[:, 1])] if len(table) else table
    if not len(table):
        return picture
    steps, losses, rates, held_out = table.T
    seen = np.isfinite(held_out)
    left, right, top, bottom = 60, width - 20, 20, height - 40
    levels, held_out = (np.log10(np.maximum(values, 1e-12)) for values in (losses, held_out))
    everything = np.concatenate([levels, held_out[seen]])
    low, high = np.floor(everything.min() * 10) / 10, np.ceil(everything.max() * 10) / 10 + 1e-9
    across = left + (steps - steps[0]) / max(steps[-1] - steps[0], 1) * (right - left)

    def line(values, color, across=across):
        points = np.stack([across, bottom - values * (bottom - top)], 1).round().astype(np.int32)
        cv2.polylines(picture, [points], False, color, 1, cv2.LINE_AA)
        for point in points if len(points) <= FEW else ():
            cv2.circle(picture, tuple(map(int, point)), 3, color, -1, cv2.LINE_AA)

    for level in np.arange(low, high, max(0.1, round((high - low) / 5, 1))):
        y = int(bottom - (level - low) / (high - low) * (bottom - top))
        cv2.line(picture, (left, y), (right, y), (225, 225, 225), 1)
        cv2.putText(picture, f"{10 ** level:.3g}", (8, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4,
                    (40, 40, 40), 1, cv2.LINE_AA)
    line(rates / max(rates.max(), 1e-30), (190, 190, 190))
    line((levels - low) / (high - low), (31, 119, 180))
    if seen.any():
        line((held_out[seen] - low) / (high - low), (255, 127, 14), across[seen])
    held = ", held-out loss (orange)" * bool(seen.any())
    cv2.putText(picture, f"loss (blue){held} and learning rate (gray) over steps {steps[0]:.0f} to"
                         f" {steps[-1]:.0f}",
                (left, height - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return picture
