"""Files and folders that appear whole or not at all."""
import glob
import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

from sgm.common.errors import InputError, os_reason

# part of temporary names: a process number means nothing elsewhere
HOST = socket.gethostname().partition(".")[0][:16]


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
