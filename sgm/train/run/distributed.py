"""Joins the ranks of a distributed run, detects dead ones and aborts the others with an error."""
import fcntl
import os
import socket
import threading
from pathlib import Path

from sgm.common.cli import end_now
from sgm.common.errors import one_line
from sgm.common.files import atomic
from sgm.config.yaml_reader import ConfigError
from sgm.train.data.latents import PATIENCE


def join_ranks(output):
    """Join the processes that msrun has started; return (rank, world_size, watchdog).

    watchdog: the `RankWatchdog` of this process, a context manager to be entered. output: the
    folder of the run. Raises ConfigError if msrun has not started it, or if one of the processes is
    missing.
    """
    role = os.environ.get("MS_ROLE")
    if role not in ("MS_WORKER", "MS_SCHED"):       # the scheduler does not come back from `init`
        raise ConfigError("--distributed: found no other processes, expected to be started by"
                          " MindSpore's launcher: msrun --worker_num=8 --local_worker_num=8"
                          " train.py ... --distributed")
    watchdog = None
    if role == "MS_WORKER":
        watchdog = RankWatchdog(Path(output) / ".processes")
        # How long a CPU's collective waits for the others, who may be saving; 30 s by default. The
        # scheduler's is another process, where it is how long it goes without a heartbeat.
        os.environ["MS_NODE_TIMEOUT"] = str(PATIENCE)
    from mindspore import communication  # not above: a watchdog alone starts in a moment
    try:
        communication.init()
    except (RuntimeError, ValueError) as error:
        raise ConfigError("--distributed: a process did not come or is gone"
                          f" ({str(error).splitlines()[0]}); see the logs of msrun,"
                          " worker_<rank>.log") from None
    watchdog.watch()
    return communication.get_rank(), communication.get_group_size(), watchdog


POLL_SECONDS = 1.0      # seconds between checks of the other ranks


class RankWatchdog:
    """Context manager: the end of another rank of the run ends this one with a line.

    Each process holds the lock of a file of its own in `folder`, and all that see the folder check
    these locks: the kernel frees a lock however its process ends, and no computation that blocks
    Python delays that.

    Make it before the processes meet, call `watch` when they have met. A process that leaves it
    without an error removes its file; one that leaves it by an error writes that into it for the
    others. Where locks are not available nothing is watched. Raises OSError if the folder cannot be
    written.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"{socket.gethostname()}-{os.getpid()}"
        with atomic(self.path) as temporary:        # it appears with its lock
            self.file = open(temporary, "w",
                             encoding="utf-8")  # until this process ends  # noqa: SIM115
            self.locked = _lock(self.file, fcntl.LOCK_EX)
        self.left = threading.Event()

    def watch(self):
        """Start to watch the processes that are there.

        Files of processes of an earlier run are removed.
        """
        others = [
            path for path in self.folder.iterdir()
            if path != self.path and not path.name.startswith(".")
        ]
        there = []
        for path in others:
            if exit_reason(path) is None:
                there.append(path)
            else:
                path.unlink(missing_ok=True)
        if self.locked and there:
            threading.Thread(target=self._watch, args=(there,), daemon=True).start()

    def _watch(self, there):
        while not self.left.wait(POLL_SECONDS):
            for path in there:
                message = exit_reason(path)
                if message and not self.left.is_set():
                    self._leave(message)        # so that all name the first that ended
                    end_now("train.py",
                            f"{message}; the others cannot continue without it and end too. Look"
                            " at its log (worker_<rank>.log of msrun), fix that, and continue from"
                            " the last checkpoint with --resume")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.left.set()
        if kind is None:
            self.path.unlink(missing_ok=True)
        self._leave(_message(self.path, str(error) or kind.__name__) if kind else "")

    def _leave(self, message):
        self.file.write(one_line(message))
        self.file.close()


def exit_reason(path):
    """Return why the process of that file ended, "" if it ended well, None if it runs."""
    try:
        with open(path, encoding="utf-8") as file:
            if not _lock(file, fcntl.LOCK_SH):
                return None
            if text := file.read():
                return text
            # A process that ended well may have removed its file since that was opened.
            return _message(path, "it was killed, or crashed") if path.exists() else ""
    except FileNotFoundError:
        return ""


def _message(path, reason):
    return f"process {path.name} of this run has ended: {reason}"


def _lock(file, kind):
    """Return whether the lock was available, without waiting."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
