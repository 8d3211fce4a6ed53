"""Flags of the commands: numbers within bounds, and errors of one line."""
import argparse
import math
import os
from pathlib import Path

from sgm.errors import InputError, one_line

MAX_SEED = 2 ** 32 - 1                          # of numpy's RandomState


class Arguments(argparse.ArgumentParser):
    """A parser whose error is one line with exit code 2, without the usage of thirty flags before it."""

    def error(self, message):
        """End the program with the message."""
        self.exit(2, f"{self.prog}: {one_line(message)}; see --help\n")


def whole(low, high):
    """The argparse type of a whole number from `low` to `high`."""
    return _number(int, low, high, f"a whole number from {low} to {high}")


def real(low, high):
    """The argparse type of a number from `low` to `high`."""
    return _number(float, low, high, f"a number from {low:g} to {high:g}")


def real_list(text):
    """The argparse type of finite numbers between commas: "0,17.1,34.3" -> floats."""
    return [_number(float, -math.inf, math.inf, "numbers between commas, as in 0,17.1,34.3")(part)
            for part in text.split(",")]


def _number(kind, low, high, expected):
    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
        return value
    return read


def seed_list(text):
    """The argparse type of seeds, numbers and rising ranges between commas: "0-3,7" -> [0, 1, 2, 3, 7]."""
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            first, last = int(first), int(last or first)
        except ValueError:
            first, last = 0, -1
        if not 0 <= first <= last <= MAX_SEED or len(numbers) + last - first >= 100_000:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected at most 100000 numbers and rising ranges from 0 to"
                                             f" {MAX_SEED}, as in 0-3,7")
        numbers += range(first, last + 1)
    return list(dict.fromkeys(numbers))


def check_folder(path, flag):
    """Raise InputError unless `path`, given with `flag`, is a folder that may be written, or can become one."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{flag} {path}: {place} is a file, expected a folder; give another path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {path}: {place} may not be written; change its rights, or give another path")
