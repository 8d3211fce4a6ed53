"""Work that several processes share."""
from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from sgm.common.errors import InputError


def in_processes(task: Callable, items: list, workers: int) -> Iterator:
    """Yield the results of task(item), in order, from `workers` processes.

    Ctrl-C lets running items end. Raises InputError if the system kills a worker.
    """
    if workers == 1 or len(items) < 2:
        yield from map(task, items)
        return
    pool = ProcessPoolExecutor(min(workers, len(items)), initializer=_start_worker)
    try:
        yield from pool.map(task, items)
    except BrokenProcessPool:
        raise InputError("a worker was killed, most likely because memory ran out; start again with"
                         " --workers 1") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker():
    """Leave Ctrl-C and a closed terminal to the parent; SIGTERM ends the worker without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # An orphan would wait without end, or finish its object while the next run renders the same
    # one. Linux's PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
