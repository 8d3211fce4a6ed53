"""Time and peak memory of the stages of a run."""
import time
from contextlib import contextmanager, suppress

import mindspore as ms

from sgm import ops
from sgm.common.progress import stage_begins
from sgm.ops.compilation import compile_seconds


class StageTimer:
    """Measures blocks: `with stages("sample"):`; `log` holds {name: {"seconds", "peak_gb"}}.

    Where MindSpore compiled in a block, there are "compile_seconds" as well, a part of the seconds.
    listener(name, seconds, peak_gb) is called at the end of each, begins(name) before it; a
    `sgm.common.progress.Chain` is told as well.
    """

    def __init__(self, listener=None, begins=None):
        self.log, self.listener, self.begins = {}, listener, begins

    @contextmanager
    def __call__(self, name):
        """Context manager: measure the block as the stage `name`."""
        stage_begins(name)
        if self.begins:
            self.begins(name)
        _reset_peak()
        start, compiled = time.perf_counter(), compile_seconds()
        yield
        seconds, compiled = time.perf_counter() - start, compile_seconds() - compiled
        known = {"seconds": round(seconds, 2), "peak_gb": round(peak_gb(), 2)}
        self.log[name] = known
        if compiled:
            self.log[name] = {**known, "compile_seconds": round(compiled, 2)}
        if self.listener:
            self.listener(name, **known)


def peak_gb():
    """Return the most memory held so far, in 10^9 bytes.

    On an NPU that is its own; on a CPU this process's, mapped files included.
    """
    if ops.on_ascend():
        return ms.runtime.max_memory_allocated() / 1e9
    with open("/proc/self/status") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return kib * 1024 / 1e9


def _reset_peak():
    """Forget the peak so far, where that is allowed."""
    if ops.on_ascend():
        ms.runtime.reset_peak_memory_stats()
        return
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
