"""Selection of the device and its operator forms, compilation, and waiting for results."""
import os
import threading
import time
from contextlib import suppress

import mindspore as ms
import numpy as np

from sgm.common.background import THREADS
from sgm.common.errors import argument
from sgm.config.yaml_reader import ConfigError

TARGETS = ("CPU", "Ascend")
_target = "CPU"


def set_target(name: str) -> None:
    """Choose the operator forms of graphs that are built from now on: ``"CPU"`` or ``"Ascend"``."""
    global _target
    if name not in TARGETS:
        raise ConfigError(f"{argument('device')}: found {name!r}, expected one of"
                          f" {', '.join(TARGETS)}")
    _target = name


def target() -> str:
    """Return the target in force."""
    return _target


def on_ascend() -> bool:
    """Return whether graphs built now take the Ascend form."""
    return _target == "Ascend"


def set_device(name: str, device_id: int = 0, mode: str = "graph") -> None:
    """Select the device, its operator forms and MindSpore's precision switches.

    On Ascend, HF32 is switched off so that what is called float32 (above all the VAE) is float32.
    Raises ConfigError for a device that MindSpore cannot use.
    """
    set_target(name)
    ms.set_context(mode=ms.PYNATIVE_MODE)  # graphs are made by ms.jit, never by the global mode
    set_jit(mode == "graph")
    if name == "CPU":
        # MindSpore refuses a second call, even for the same device.
        if ms.get_context("device_target") != name:
            ms.set_device(name)
        return
    try:
        ms.set_device(name, device_id)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{argument('device')} {name}: MindSpore {ms.__version__} cannot use it"
            f" ({str(error).splitlines()[0]}); on an NPU host source CANN's set_env.sh first,"
            f" elsewhere use {argument('device')} CPU") from None
    ms.device_context.ascend.op_precision.conv_allow_hf32(False)
    ms.device_context.ascend.op_precision.matmul_allow_hf32(False)


_jit = True


def set_jit(on: bool) -> None:
    """Choose whether `compiled` compiles (graph mode) or leaves functions alone (pynative)."""
    global _jit
    _jit = on


def compiled(function):
    """Return a function or a Cell's `construct` as a compiled graph, or as it is (`set_jit`)."""
    return ms.jit(function) if _jit else function


def release() -> None:
    """Forget all compiled graphs and give their memory back.

    A graph keeps the weights it first ran with, in memory and in its results, even if its
    parameters are given others later: to use other weights, or none, compile it again (MindSpore
    2.8).
    """
    ms.ms_memory_recycle()


def wait() -> None:
    """Block without spinning until MindSpore's threads are idle.

    Only on a CPU; an NPU's host has spare cores.
    MindSpore computes in background threads, and whoever asks for a value spins until it is there:
    on a few cores that starves the computation itself (measured: one convolution and its gradient
    took 148 ms instead of 22 on one core). So wait until none of this process's other threads has
    work, and ask then. Those of `sgm.common.background` do not compute for the device.
    """
    pause, idle, before = 0.0005, 0, {}
    while _target == "CPU" and idle < 2:    # twice: one thread may just be handing over to the next
        time.sleep(pause)
        working, before = _others_work(before)
        idle = 0 if working else idle + 1
        pause = min(0.01, 1.5 * pause) if idle == 0 else 0.0005


# A thread that only looks whether there is work runs for about 5 microseconds at a time; but where
# other programs want its core too, it stands in the queue for it nearly always.
_LOOK = 50_000          # nanoseconds


def _others_work(before, tasks="/proc/self/task"):
    """Return whether a thread of this process besides the caller works (Linux), and what was seen.

    before: what was seen the last time, {thread: (nanoseconds that it ran, times that it began)};
    tasks: the folder of the process's threads.
    """
    me, working, seen = str(threading.get_native_id()), False, {}
    for thread in os.listdir(tasks):
        if thread == me or thread in THREADS:
            continue
        with suppress(OSError):         # it may have ended meanwhile
            with open(f"{tasks}/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] not in "RD":
                    continue
            with open(f"{tasks}/{thread}/schedstat") as file:
                ran, _, begun = map(int, file.read().split())
            seen[thread] = ran, begun
            ran, begun = (now - then for now, then in zip(seen[thread], before.get(thread, (0, 0))))
            working |= thread not in before or begun == 0 or ran > _LOOK * begun
    return working, seen


def fetch(tensor: ms.Tensor) -> np.ndarray:
    """Return the numpy value of `tensor`, after `wait`."""
    wait()
    return tensor.asnumpy()
