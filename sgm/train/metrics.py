"""metrics.csv of a run: a row for every few steps, none twice, whatever killed the run that wrote it."""
import csv
import os
import time
from pathlib import Path

from sgm.errors import InputError, os_reason
from sgm.tensorwriter import atomic

FIELDS = ("step", "loss", "grad_norm", "lr", "seconds", "clips_per_second", "skipped", "val_loss")


class Metrics:
    """Opens `path` to go on after step `done`: later rows, and one that was cut off, are dropped.

    Rows of steps average those since the row before; `seconds` counts the run's time, interruptions left out. Raises
    InputError when the file cannot be written.
    """

    def __init__(self, path, done, clips):
        self.path, self.clips = Path(path), clips
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

    def averages(self):
        """Loss, gradient norm and clips per second since the last row written; NaN for none."""
        good = [row for row in self.waiting if not row.skipped]
        speed = len(self.waiting) * self.clips / max(1e-9, time.monotonic() - self.last)
        if not good:
            return float("nan"), float("nan"), speed
        return sum(row.loss for row in good) / len(good), sum(row.grad_norm for row in good) / len(good), speed

    def write(self, step, val_loss=None):
        """A row of what was noted, if anything was."""
        if not self.waiting:
            return
        loss, norm, speed = self.averages()
        skipped = sum(row.skipped for row in self.waiting)
        values = [step, f"{loss:.6f}", f"{norm:.4f}", f"{self.waiting[-1].lr:.3e}", f"{time.monotonic() - self.began:.1f}",
                  f"{speed:.3f}", skipped, "" if val_loss is None else f"{val_loss:.6f}"]
        try:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(values)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {os_reason(error)}") from None
        self.waiting, self.last = [], time.monotonic()


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
