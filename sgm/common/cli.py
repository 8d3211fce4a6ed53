"""What the commands share: flags, signals, exit codes and one-line errors."""
import argparse
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from sgm import __version__
from sgm.common.errors import InputError, of_command, one_line, os_reason
from sgm.common.startup import not_imported

_DEFAULTS = {
    signal.SIGINT: (signal.SIG_DFL, signal.default_int_handler), signal.SIGTERM: (signal.SIG_DFL,),
    signal.SIGHUP: (signal.SIG_DFL,)
}
_caught = []                                    # signals that asked for an end
_hidden = []                                    # stderr, where `_interrupt` has put it aside
log = logging.getLogger("sgm")


def _interrupt(number, frame):
    _caught.append(number)
    _leave_terminal(number)
    if not _hidden:         # MindSpore's compiler prints pages when an exception interrupts it
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            _hidden.append(os.dup(2))
            _to_nowhere(2)
    raise KeyboardInterrupt


def _show_stderr():
    if _hidden:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(_hidden[0], 2)
        os.close(_hidden.pop())


def _to_nowhere(output):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != output:
        os.dup2(nowhere, output)
        os.close(nowhere)


def _leave_terminal(number):
    """Let nothing fail, after SIGHUP, that is still said to a terminal which is closed."""
    if number == signal.SIGHUP:
        for output in (1, 2):
            try:
                os.write(output, b"")           # EIO where the terminal is gone
            except OSError:
                _to_nowhere(output)


@contextmanager
def signals_handled(handler):
    """Context manager: Ctrl-C, SIGTERM and SIGHUP (the terminal was closed) call `handler`.

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
    `interrupted` for Ctrl-C, SIGTERM and SIGHUP. With --verbose the first two have their traceback.
    """
    started = time.time()
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
            log.debug("raised here:", exc_info=True)
        except OSError as error:
            said = f"{error.filename or 'a file'}: {os_reason(error)}"
            log.debug("raised here:", exc_info=True)
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
        finally:
            _show_stderr()
    if _caught:
        _remove_failed_graphs(started)
        print(f"\n{name}: {interrupted}", file=sys.stderr)
        return 130
    print(f"{name}: {one_line(said)}", file=sys.stderr)
    return 2


def _remove_failed_graphs(since):
    """Remove the graphs that MindSpore dumps when its compiler is interrupted, as if it had failed.

    since: the time before which such a file is not this process's.
    """
    for path in Path(os.environ.get("MS_OM_PATH") or ".").glob("rank_*/om/analyze_fail.ir"):
        with suppress(OSError):         # others may use the folders
            if path.stat().st_mtime >= since - 1:
                path.unlink()
                path.parent.rmdir()
                path.parent.parent.rmdir()


def end_now(name, said):
    """End the command `name` with exit code 2 and one line, from any thread.

    Whatever the other threads do, nothing of theirs is finished or cleaned up.
    """
    print(f"\n{name}: {one_line(said)}", file=sys.stderr, flush=True)  # there may be a progress bar
    os._exit(2)


MAX_SEED = 2 ** 32 - 1                          # of numpy's RandomState


class Arguments(argparse.ArgumentParser):
    """A parser whose error is one line with exit code 2, without the usage of thirty flags.

    All commands have --version, and --quiet and --verbose, which it puts into force.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # argparse takes -5,0,10 and -1e3 for flags; none of ours begins with a digit
        self._negative_number_matcher = re.compile(r"-\.?[0-9]")
        self.add_argument("--version", action="version", version=f"sv3d-mindspore {__version__}")
        add = self.add_mutually_exclusive_group().add_argument
        # suppressed: the default of a subcommand would undo what stands before its name
        add("--quiet", action="store_true", default=argparse.SUPPRESS,
            help="no progress and no notes: results, warnings and errors only")
        add("--verbose", action="store_true", default=argparse.SUPPRESS,
            help="also what helps to find a fault: more notes, and the traceback of an error")

    def parse_args(self, args=None, namespace=None):
        """Return the flags; what is logged from now on follows --quiet and --verbose."""
        found = super().parse_args(args, namespace)
        for name in ("quiet", "verbose"):
            setattr(found, name, getattr(found, name, False))
        logging.basicConfig(format="%(message)s")
        log.setLevel(logging.WARNING if found.quiet else
                     logging.DEBUG if found.verbose else logging.INFO)
        if found.quiet:
            os.environ.setdefault("GLOG_v", "3")        # MindSpore's own warnings
        return found

    def error(self, message):
        """End the program with the message."""
        self.exit(2, f"{self.prog}: {one_line(message)}; see --help\n")


def loudness(args):
    """Return --quiet or --verbose of parsed flags, for another command's `main`: a list."""
    return ["--quiet"] * args.quiet + ["--verbose"] * args.verbose


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
    """Context manager: gives a list in which the first Ctrl-C, SIGTERM or SIGHUP is noted.

    Nothing else happens then: the block looks at the list between two steps, so a step ends and can
    be saved. A second signal ends the program as it would have without this. Use it in the main
    thread.
    """
    noted, before = [], {number: signal.getsignal(number) for number in _DEFAULTS}

    def note(number, frame):
        noted.append(number)
        _leave_terminal(number)
        signal.signal(number, before[number])

    with signals_handled(note):
        yield noted
