"""What the commands share: flags, signals, exit codes and one-line errors."""
import argparse
import math
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from sgm import __version__
from sgm.common.errors import InputError, of_command, one_line, os_reason
from sgm.common.startup import not_imported

_DEFAULTS = {
    signal.SIGINT: (signal.SIG_DFL, signal.default_int_handler), signal.SIGTERM: (signal.SIG_DFL,)
}
_caught = []                                    # signals that asked for an end


def _interrupt(number, frame):
    _caught.append(number)
    raise KeyboardInterrupt


@contextmanager
def signals_handled(handler):
    """Context manager: Ctrl-C and SIGTERM call `handler`.

    A handler of the caller, or nohup's, is left alone. SIGTERM too, because a running MindSpore
    answers Ctrl-C by sending itself one, whichever handler Python has.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number, usual in _DEFAULTS.items()
                  if signal.getsignal(number) in (*usual, _interrupt)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def loading():
    """Return a context manager in which Ctrl-C ends the program at once and without a word.

    It is for the import of MindSpore, which crashes if an exception interrupts it.
    """
    return signals_handled(signal.SIG_DFL)


def exit_code(name, main, argv=None, interrupted="interrupted"):
    """Run the command `name` and return its exit code.

    This is `main(argv)`'s own code; 2 with one line for bad input, for a file that cannot be
    written, for too little memory and for a package that cannot be imported; 130 with the line
    `interrupted` for Ctrl-C and SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        # a file's name need not be text in the terminal's encoding
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _caught.clear()
    with signals_handled(_interrupt), of_command():
        try:
            return main(argv)
        except InputError as error:
            said = str(error)
        except OSError as error:
            said = f"{error.filename or 'a file'}: {os_reason(error)}"
        except MemoryError as error:
            reason = str(error) or "none is left"
            said = f"not enough memory ({reason}); ask for less at once, see --help"
        except ImportError as error:
            said = not_imported(error)
        except KeyboardInterrupt:
            _caught.append(signal.SIGINT)
        except Exception:
            if not _caught:     # MindSpore turns an interrupt inside it into errors of its own
                raise
    if _caught:
        print(f"\n{name}: {interrupted}", file=sys.stderr)
        return 130
    print(f"{name}: {one_line(said)}", file=sys.stderr)
    return 2


def end_now(name, said):
    """End the command `name` with exit code 2 and one line, from any thread.

    Whatever the other threads do, nothing of theirs is finished or cleaned up.
    """
    print(f"\n{name}: {one_line(said)}", file=sys.stderr, flush=True)  # there may be a progress bar
    os._exit(2)


MAX_SEED = 2 ** 32 - 1                          # of numpy's RandomState


class Arguments(argparse.ArgumentParser):
    """A parser whose error is one line with exit code 2, without the usage of thirty flags."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # argparse takes -5,0,10 and -1e3 for flags; none of ours begins with a digit
        self._negative_number_matcher = re.compile(r"-\.?[0-9]")
        self.add_argument("--version", action="version", version=f"sv3d-mindspore {__version__}")

    def error(self, message):
        """End the program with the message."""
        self.exit(2, f"{self.prog}: {one_line(message)}; see --help\n")


def int_range(low, high):
    """Return the argparse type of a whole number from `low` to `high`."""
    return _number(int, low, high, f"a whole number from {low} to {high}")


def float_range(low, high):
    """Return the argparse type of a number from `low` to `high`."""
    return _number(float, low, high, f"a number from {low:g} to {high:g}")


def float_list(text):
    """Return the finite numbers of a text like "0,17.1,34.3" as floats; an argparse type."""
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
    """Return the seeds of a text like "0-3,7", here [0, 1, 2, 3, 7]; an argparse type.

    The parts between commas are numbers and rising ranges.
    """
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            first, last = int(first), int(last or first)
        except ValueError:
            first, last = 0, -1
        if not 0 <= first <= last <= MAX_SEED or len(numbers) + last - first >= 100_000:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected at most 100000 numbers and"
                                             f" rising ranges from 0 to {MAX_SEED}, as in 0-3,7")
        numbers += range(first, last + 1)
    return list(dict.fromkeys(numbers))


def check_folder(path, flag):
    """Raise InputError unless `path` is a folder that may be written, or can become one.

    flag: the option that gave it.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{flag} {path}: {place} is a file, expected a folder; give another path")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {path}: {place} may not be written; change its rights, or give"
                         " another path")


@contextmanager
def until_stopped():
    """Context manager: gives a list in which the first Ctrl-C or SIGTERM is noted.

    Nothing else happens then: the block looks at the list between two steps, so a step ends and can
    be saved. A second signal ends the program as it would have without this. Use it in the main
    thread.
    """
    noted, before = [], {number: signal.getsignal(number) for number in _DEFAULTS}

    def note(number, frame):
        noted.append(number)
        signal.signal(number, before[number])

    with signals_handled(note):
        yield noted


@contextmanager
def progress_bar(unit):
    """Context manager: gives progress(done, total, failure=None), which draws a bar on stderr.

    The bar appears with the first call. failure: (name, reason) of what just failed, printed as a
    line of its own.
    """
    bars = []

    def progress(done, total, failure=None):
        if not bars:  # what was finished before says nothing about the speed of this run
            from tqdm import tqdm
            bars.append(tqdm(total=total, initial=done - 1, unit=unit, smoothing=0.05))
        bars[0].update(done - bars[0].n)
        if failure:
            bars[0].write(one_line(f"failed: {failure[0]}: {failure[1]}"), file=sys.stderr)

    try:
        yield progress
    finally:
        for bar in bars:
            bar.close()
