"""What may be read as a file, the order of numbered files, and files that appear whole."""
import errno
import glob
import os
import re
import shutil
import socket
import stat
from contextlib import contextmanager
from pathlib import Path

from sgm.common.errors import InputError, os_reason

# part of temporary names: a process number means nothing elsewhere
HOST = socket.gethostname().partition(".")[0][:16]


def check_file(path, error=InputError):
    """Raise `error` if `path` is a pipe, a socket or a device: reading one may never end.

    It says nothing of a file that is missing; who opens it does. Raises `error` also for a name
    that no file can have.
    """
    try:
        mode = os.stat(path).st_mode
    except (ValueError, OSError) as problem:    # ValueError: NUL, or letters that cannot be coded
        if getattr(problem, "errno", errno.ENAMETOOLONG) == errno.ENAMETOOLONG:
            name = path if len(str(path)) < 300 else f"{str(path)[:300]}..."
            raise error(f"{name}: no file can have this name; give another path") from None
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise error(f"{path}: found {kind}, expected a file; write what it gives to a file first")


def natural_key(path):
    """Return a key that sorts names by the numbers in them: frame_2 before frame_10.

    Folders count before what is in them. Names that differ in leading zeros only keep one order.
    """
    parts = Path(path).parts
    return [[int(piece) if k % 2 else piece for k, piece in enumerate(re.split("([0-9]+)", part))]
            for part in parts], parts


@contextmanager
def atomic(path, size=None, name=None):
    """Context manager: gives a temporary path, which becomes `path` when the block ends well.

    It is for a file or a folder, lies in the same folder, is removed when the block fails, and
    replaces those that killed processes of this host left there. size: the bytes needed, for the
    message about a full disk. name: what messages call `path`, by default itself. Raises InputError
    for an OSError; what was at `path` before is then untouched.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(HOST)}.*.tmp"):
        if not _is_running(left.name.split(".")[-2]):
            _remove(left)
    pid = os.getpid()
    temporary = path.with_name(f".{path.name}.{HOST}.{pid}-{_start_of(pid)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        need = "" if size is None else f", {size / 1e6:.1f} MB needed"
        reason, _, remedy = os_reason(error).partition("; ")
        raise InputError(f"{name or path}: cannot be written ({reason}{need}); nothing was changed:"
                         f" {remedy}") from None
    finally:
        _remove(temporary)                      # gone already when all went well


def _is_running(owner):
    """Return whether the process "number-start", or only "number", still runs."""
    pid, _, start = owner.partition("-")
    found = _start_of(pid)
    return found is not None and start in ("", found)


def _start_of(pid):
    """Return when a process began, in the kernel's ticks; None if it has ended.

    The number alone is no name: the kernel gives it to another process later. One that is dead and
    that its parent has not asked about yet (state Z) has ended.
    """
    try:
        stat = Path("/proc", str(pid), "stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()       # a command's name may hold blanks and brackets
    return None if fields[0] in b"ZXx" else fields[19].decode()


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_blocks(path, blocks, progress):
    """Write the bytes-like `blocks` one after another to a new file, and sync it to the disk.

    `progress(count)`, or None, gets the length of each block that is an array; headers are `bytes`.
    Raises OSError.
    """
    with open(path, "wb") as file:
        for block in blocks:
            file.write(block)
            if progress and not isinstance(block, bytes):  # tensors, not headers
                progress(len(block))
        file.flush()
        os.fsync(file.fileno())
