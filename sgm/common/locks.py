"""Locks of outputs: two processes never write one."""
import errno
import fcntl
import logging
import os
from contextlib import contextmanager, suppress
from pathlib import Path

from sgm.common.errors import InputError
from sgm.common.files import HOST

log = logging.getLogger("sgm")
# what a file system without locks answers
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class LockedError(InputError):
    """An output that another process is writing."""


@contextmanager
def locked(output, flag=""):
    """Context manager: this process alone writes `output`, a file or folder, which may not exist.

    The lock is of the file .<name>.lock beside it (in it, where the folder above may not be
    written), which is removed at the end. The kernel frees it however its process ends, and workers
    do not hold it. flag: what messages put before the path. Where the file system has no locks,
    that is a warning. Raises LockedError, OSError.
    """
    output, named = Path(output).absolute(), f"{flag} {output}".strip()
    inside = output.is_dir() and not os.access(output.parent, os.W_OK | os.X_OK)
    place = output if inside else output.parent
    place.mkdir(parents=True, exist_ok=True)
    name = os.fsdecode(os.fsencode(output.name)[:200])     # a file's name has at most 255 bytes
    path = place / f".{name}.lock"
    file = None
    try:
        file = _take(path, named)
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                path.unlink()           # before the lock goes: whoever waits sees that it is gone
            os.close(file)


def _take(path, named):
    """Return the open, locked file; None where there are no locks. Raises LockedError."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)    # not flock: children would keep it
        except OSError as error:
            owner = os.read(file, 200).decode("utf-8", "replace")
            os.close(file)
            if error.errno in UNSUPPORTED:
                log.warning("%s: its file system has no locks (%s): see to it that no other process"
                            " writes there", named, error.strerror)
                with suppress(OSError):
                    path.unlink()
                return None
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise LockedError(
                f"{named}: another process is writing there ({owner or 'it has just begun'}),"
                " expected one at a time; wait for its end, or give another output") from None
        is_ours = False
        try:
            with suppress(FileNotFoundError):
                is_ours = os.path.samestat(os.fstat(file), os.stat(path))
            if is_ours:
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {HOST}".encode())
                return file
        except BaseException:           # Ctrl-C, a full disk
            if is_ours:
                with suppress(OSError):
                    path.unlink()
            os.close(file)
            raise
        os.close(file)                  # its last owner removed it between our two calls
