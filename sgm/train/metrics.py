"""metrics.csv of a run: a row for every few steps, none twice, whatever killed the run that wrote it."""
import csv
import os
import time
from pathlib import Path

from sgm.common.errors import InputError, os_reason
from sgm.common.files import atomic

MEASURED = ("val_loss", "val_psnr_fg", "val_iou")       # on held-back clips; dB and share of their foreground
FIELDS = ("step", "loss", "grad_norm", "lr", "seconds", "clips_per_second", "skipped", *MEASURED)


class Metrics:
    """Opens `path` to go on after step `done`: later rows, and one that was cut off, are dropped.

    Rows of steps average those since the row before; `seconds` counts the run's time, interruptions left out. board: is
    told the same numbers (`sgm.train.board.Board`), or None. Raises InputError when the file cannot be written.
    """

    def __init__(self, path, done, clips, board=None):
        self.path, self.clips, self.board = Path(path), clips, board
        kept = read_metrics(self.path, done)
        with atomic(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, FIELDS)
            table.writeheader()
            table.writerows(kept)
        self.began = time.monotonic() - (float(kept[-1]["seconds"] or 0) if kept else 0)
        self.last = time.monotonic()
        self.waiting = []

    def add(self, row):
        """Note the `Row` of a step."""
        self.waiting.append(row)

    def show(self, step, sheet):
        """Tell the board a picture (H, W, 3) uint8, if there is a board."""
        if self.board is not None:
            self.board.show(step, sheet)

    def averages(self):
        """Loss, gradient norm and clips per second since the last row written; NaN for none."""
        good = [row for row in self.waiting if not row.skipped]
        speed = len(self.waiting) * self.clips / max(1e-9, time.monotonic() - self.last)
        if not good:
            return float("nan"), float("nan"), speed
        return sum(row.loss for row in good) / len(good), sum(row.grad_norm for row in good) / len(good), speed

    def write(self, step, **measured):
        """A row of what was noted, if anything was. measured: the FIELDS that only some steps have, numbers."""
        if not self.waiting:
            return
        loss, norm, speed = self.averages()
        skipped, lr = sum(row.skipped for row in self.waiting), self.waiting[-1].lr
        values = [step, f"{loss:.6f}", f"{norm:.4f}", f"{lr:.3e}", f"{time.monotonic() - self.began:.1f}",
                  f"{speed:.3f}", skipped, *(f"{measured[name]:.6f}" if name in measured else "" for name in MEASURED)]
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(values)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {os_reason(error)}") from None
        self.waiting, self.last = [], time.monotonic()
        if self.board is not None:
            self.board.add(step, {"loss": loss, "grad_norm": norm, "lr": lr, "clips_per_second": speed, **measured})


def read_metrics(path, done=float("inf")):
    """The rows up to step `done`, dicts of FIELDS as text, up to the first that is not whole. Raises OSError."""
    rows = []
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(line.replace("\0", "") for line in file):
                try:
                    numbers = [float(row[name]) for name in ("step", "loss", "grad_norm", "lr", "seconds")]
                except (KeyError, TypeError, ValueError):
                    break
                if numbers[0] > done:
                    break
                rows.append({name: row.get(name) or "" for name in FIELDS})
    except FileNotFoundError:
        pass
    return rows
