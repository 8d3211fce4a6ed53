"""Seconds and peak memory of the stages of a run."""
import time
from contextlib import contextmanager, suppress

import mindspore as ms

from sgm import ops


class StageTimer:
    """`with stages("sample"):` measures what is within; `log` holds {name: {"seconds", "peak_gb"}}.

    listener(name, seconds, peak_gb) is told of each when it is done.
    """

    def __init__(self, listener=None):
        self.log, self.listener = {}, listener

    @contextmanager
    def __call__(self, name):
        _start_anew()
        began = time.perf_counter()
        yield
        self.log[name] = {"seconds": round(time.perf_counter() - began, 2), "peak_gb": round(peak_gb(), 2)}
        if self.listener:
            self.listener(name, **self.log[name])


def peak_gb():
    """The most memory held so far, in 10^9 bytes: on the NPU, or else of this process, mapped files included."""
    if ops.on_ascend():
        return ms.runtime.max_memory_allocated() / 1e9
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e9


def _start_anew():
    """Forget the peak so far, where that is allowed."""
    if ops.on_ascend():
        ms.runtime.reset_peak_memory_stats()
        return
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
