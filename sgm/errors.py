"""What is the user's to mend, said in one line, and how a command ends with it instead of a traceback."""
import errno
import os
import signal
import sys
import threading
from contextlib import contextmanager


class InputError(ValueError):
    """A file, key or flag that cannot be used; the message names it, what was found, what was expected, the remedy."""

    def __init__(self, message):
        super().__init__(one_line(message))     # names in it may come from a file, and hold anything


def one_line(message):
    """A message as one printable line of at most 2000 characters, whatever the names in it hold."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    return line if len(line) <= 2000 else line[:1997] + "..."


_REMEDIES = {
    errno.ENOSPC: "free space, or write to another disk", errno.EDQUOT: "free space, or write to another disk",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or write to another disk",
    errno.ENOTDIR: "a file stands where a folder is expected: give another path",
    errno.EEXIST: "a file stands where a folder is expected: give another path",
    errno.EISDIR: "a folder stands where a file is expected: give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "give a path that exists",
}


def os_reason(error):
    """What an OSError says and what can be done about it: "No space left on device; free space, or ..."."""
    return f"{error.strerror or error}; {_REMEDIES.get(error.errno, 'give a path that may be read and written')}"


_DEFAULTS = {signal.SIGINT: (signal.SIG_DFL, signal.default_int_handler), signal.SIGTERM: (signal.SIG_DFL,)}
_caught = []                                    # signals that asked for an end


def _interrupt(number, frame):
    _caught.append(number)
    raise KeyboardInterrupt


@contextmanager
def signals_handled(handler):
    """Within, Ctrl-C and SIGTERM do as `handler` says, unless somebody has decided otherwise (nohup, a caller).

    SIGTERM because MindSpore, once it runs, answers Ctrl-C by sending itself one, whatever Python's handler is.
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
    """Within, Ctrl-C ends the program at once and in silence: for the import of MindSpore, which an exception in the
    middle of it makes crash."""
    return signals_handled(signal.SIG_DFL)


def exit_code(name, main, argv=None, interrupted="interrupted"):
    """Run the command `name`: `main(argv)`'s own code; 2 with one line for bad input, for a file that cannot be written
    and for too little memory; 130 with the line `interrupted` for Ctrl-C and SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):      # a file's name need not be text in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    _caught.clear()
    with signals_handled(_interrupt):
        try:
            return main(argv)
        except InputError as error:
            said = str(error)
        except OSError as error:
            said = f"{error.filename or 'a file'}: {os_reason(error)}"
        except MemoryError as error:
            said = f"not enough memory ({str(error) or 'no more is to be had'}); ask for less at once, see --help"
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
    """End the command `name` with 2 and one line, from whichever thread, whatever the others wait for: nothing of theirs
    is finished or tidied up."""
    print(f"\n{name}: {one_line(said)}", file=sys.stderr, flush=True)      # there may be a progress bar
    os._exit(2)
