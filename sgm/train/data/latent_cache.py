"""The store of encoded clips: one file per clip, written atomically, within a bound on its size."""
import os
import shutil
import time
from pathlib import Path

import numpy as np

from sgm.common.arrays import read_npy
from sgm.common.errors import InputError, os_reason
from sgm.common.files import atomic
from sgm.train.data.clips import DataError, Memo


class LatentStore:
    """float32 arrays of one shape under hexadecimal keys in a folder of at most `limit_gb` GB.

    An entry is <folder>/<two digits>/<key>.npy, written atomically, so a killed run leaves whole
    entries only and the next one continues. A clip that cannot be used is an entry <key>.txt with
    the reason.
    """

    MEMO = "memo.jsonl"

    def __init__(self, folder, limit_gb):
        self.folder, self.limit = Path(folder), int(limit_gb * 1e9)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / self.MEMO).touch()           # also marks the folder as a cache
        except OSError as error:
            raise InputError(f"cache_folder {folder}: cannot be written:"
                             f" {os_reason(error)}") from None
        self.memo = Memo(self.folder / self.MEMO)
        self.claimed = {}               # {path: bytes} of the entries that this run uses

    def path(self, key, suffix=".npy"):
        """Return the file of an entry."""
        return self.folder / key[:2] / (key + suffix)

    def has(self, key, shape):
        """Return whether there is a whole entry of that shape."""
        try:
            return os.path.getsize(self.path(key)) == _npy_bytes(shape)
        except OSError:
            return False

    def reason(self, key):
        """Return why the clip cannot be used, or None."""
        path = self.path(key, ".txt")
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def write(self, key, array):
        """Store an entry. Raises InputError if the folder cannot be written."""
        self._write(self.path(key), lambda file: np.save(file, np.asarray(array, np.float32)))

    def write_reason(self, key, reason):
        """Note that a clip cannot be used."""
        self._write(self.path(key, ".txt"),
                    lambda file: file.write(reason.encode("utf-8", "replace")))

    def _write(self, path, fill):
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cache_folder {self.folder}: cannot be written:"
                             f" {os_reason(error)}") from None
        with (atomic(path, name=f"cache_folder {self.folder}") as temporary,
              open(temporary, "wb") as file):
            fill(file)
            file.flush()
            os.fsync(file.fileno())     # else a power cut after the rename may leave it empty

    def read(self, key, shape):
        """Return an entry of that shape, memory-mapped. Raises DataError if it is gone or damaged.
        """
        try:
            return read_npy(self.path(key), "r", np.float32, shape)
        except InputError as error:
            raise DataError(f"cache_folder: {error}, and it is encoded again") from None
        except OSError as error:
            raise DataError(f"cache_folder {self.folder}: entry {key} cannot be read any more"
                            f" ({error}); another run with a lower cache_gb may have removed it:"
                            " continue with --resume, or give each run its own") from None

    def make_room(self, keys, shapes):
        """Remove the entries used longest ago until those of `keys` fit the bound.

        So must those that were claimed in earlier calls. Entries count as used when a run starts
        with them. Raises DataError if those alone do not fit, or if the disk has not enough space
        for those that are missing.
        """
        self.claimed.update((self.path(key), _npy_bytes(shape)) for key, shape in zip(keys, shapes))
        sizes, needed = self.claimed, sum(self.claimed.values())
        if needed > self.limit:
            raise DataError(f"cache_gb: these {len(sizes)} clips take {needed / 1e9:.3g} GB"
                            f" encoded, the bound is {self.limit / 1e9:.3g}; raise it, or encode"
                            " from pixels each step (--set cache=false)")
        missing = 0
        for path, size in sizes.items():
            if path.exists():
                os.utime(path)
            else:
                missing += size
        others = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if path.name.startswith("."):       # left by a killed run
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink(missing_ok=True)
            elif path not in sizes and path.suffix == ".npy":
                status = path.stat()
                others.append((status.st_mtime_ns, status.st_size, path))
        total = needed + sum(size for _, size, _ in others)
        for _, size, path in sorted(others):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise DataError(f"cache_folder {self.folder}: {missing / 1e9:.3g} GB are needed and"
                            f" {free / 1e9:.3g} GB are free; free space, give another folder, or"
                            " encode from pixels each step (--set cache=false)")


def _npy_bytes(shape):
    """Return the bytes of a .npy file of a float32 array.

    numpy pads the header of a small shape to 128.
    """
    return 128 + 4 * int(np.prod(shape))
