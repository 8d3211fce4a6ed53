"""User errors: one line that names what was found, what was expected and the remedy."""
import errno
from contextlib import contextmanager


class InputError(ValueError):
    """A file, key or flag that cannot be used.

    The message names it, what was found, what was expected and the remedy.
    """

    def __init__(self, message):
        super().__init__(one_line(message))  # names in it may come from a file, and hold anything


_flags = []                                     # holds a dict while a command runs


@contextmanager
def of_command(renamed=()):
    """Context manager: the errors of the block speak of a command's flags, not of arguments.

    renamed: {flag: name} of those that the command calls otherwise.
    """
    _flags.append(dict(renamed))
    try:
        yield
    finally:
        _flags.pop()


def argument(name, flag=None):
    """Return what an error calls an argument: `frame_ratio`, in a command `--frame-ratio`.

    flag: that of the commands, where it has another name.
    """
    if not _flags:
        return name
    flag = flag or "--" + name.replace("_", "-")
    return _flags[-1].get(flag, flag)


def one_line(message):
    """Return a message as one printable line of at most 2000 characters."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    return line if len(line) <= 2000 else line[:1997] + "..."


_REMEDIES = {
    errno.ENOSPC: "free space, or write to another disk",
    errno.EDQUOT: "free space, or write to another disk",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or write to another disk",
    errno.ENOTDIR: "a file stands where a folder is expected: give another path",
    errno.EEXIST: "a file stands where a folder is expected: give another path",
    errno.EISDIR: "a folder stands where a file is expected: give another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "give a path that exists",
}


def os_reason(error):
    """Return what an OSError says and the remedy: "No space left on device; free space, or ..."."""
    remedy = _REMEDIES.get(error.errno, "give a path that may be read and written")
    return f"{error.strerror or error}; {remedy}"
